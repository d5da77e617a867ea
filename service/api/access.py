"""Who may use the operators' routes: whoever has the bearer token; nobody where none is set."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api import WithServing
from service.errors import Forbidden, Unauthorized

_bearer = HTTPBearer(auto_error=False, description="RANKSERVE_TOKEN of the service")


async def operator(
    serving: WithServing, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let an operator through.

    Raises:
        Forbidden: the service has no token, so these routes are closed.
        Unauthorized: the caller's token is missing or wrong.
    """
    token = serving.settings.token
    if token is None:
        raise Forbidden("operators' routes are closed; start the service with RANKSERVE_TOKEN to open them")
    # As the bytes that were sent; and in constant time, which must not tell how good a guess was.
    sent = given.credentials.encode("latin-1") if given else b""
    if not hmac.compare_digest(sent, token.get_secret_value().encode()):
        raise Unauthorized("send the operators' token, as `Authorization: Bearer …`")


operators_only = Depends(operator)
