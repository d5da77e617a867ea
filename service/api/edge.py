"""The outermost layer: a request's id, its count and its time, and a blank 500 for what nobody expected."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable
from random import getrandbits

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import respond
from service.telemetry import Telemetry
from service.wire import REQUEST_ID

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(REQUEST_ID.encode())


class Edge:
    """ASGI middleware around every route."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)
        begun = False

        def send_on(message: Message) -> Awaitable[None]:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                request_id = (b"x-request-id", state["request_id"].encode())
                message["headers"] = [*message.get("headers", ()), request_id]
            return send(message)

        self._telemetry.arrived()
        try:
            await self._app(scope, receive, send_on)
        except Exception:
            logger.exception(
                "a request failed", extra={"request_id": state["request_id"], "path": scope["path"]}
            )
            blank = respond(
                scope, 500, {"type": "internal", "message": "the service failed; its log says why"}
            )
            if begun:
                raise
            await blank(scope, receive, send_on)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._telemetry.request(route, state.get("outcome", "ok"), time.perf_counter() - started)


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id where it is fit for headers and log lines, else a new one."""
    given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"{getrandbits(128):032x}"
