"""POST /v1/rank.

It is the one route that is asked hundreds of times a second, and has no use for what the framework can do on
the way to a route. So in a worker `DirectRank` stands before the framework; the framework's own route is
documented, and does the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from service.api import Serving, codec, errors, media, slate_json, slate_msgpack
from service.api.edge import Edge
from service.api.media import Media
from service.api.openapi import answer_of, body_of, faults
from service.api.patience import Patience
from service.errors import Forbidden
from service.wire import RankRequest, RankResponse

PATH = "/v1/rank"

router = APIRouter(tags=["rank"])


@router.post(
    PATH,
    response_model=RankResponse,
    openapi_extra=body_of(RankRequest),
    responses=answer_of(RankResponse) | faults(403, 404, 413, 415, 422, 429, 503, 504),
)
async def rank(request: Request) -> Response:
    """Put candidates in order for a user."""
    serving: Serving = request.app.state.serving
    answer, form = await _answer(serving, request.scope["state"], request.headers, request.receive)
    return Response(answer, media_type=form)


async def _answer(
    serving: Serving, state: dict[str, str], headers: Mapping[str, str], receive: Receive
) -> tuple[bytes, Media]:
    """The answer's body, and its form."""
    # Read as bytes, as validation and serialisation by the framework would cost more than the inference.
    arrived = asyncio.get_running_loop().time()
    settings = serving.settings
    with Patience(arrived + settings.deadline_s(None)) as patience:
        body = await codec.received(headers, receive, settings.max_body_bytes)
        wanted = codec.decode_rank(body, settings.max_candidates, media.sent(headers))
        if wanted.request_id is not None:
            state["request_id"] = wanted.request_id
        if wanted.fusion is not None and not settings.allow_request_fusion:
            raise Forbidden(
                "this service takes no formula from a request; RANKSERVE_ALLOW_REQUEST_FUSION=1 allows it"
            )
        deadline = arrived + settings.deadline_s(wanted.deadline_ms)
        patience.watch(receive, deadline)
        slate = await serving.ranker.rank(wanted, deadline)
    form = media.wanted(headers)
    encode = slate_msgpack.encode if form is Media.MSGPACK else slate_json.encode
    return encode(slate, state["request_id"], tasks=wanted.tasks), form


class DirectRank:
    """The app, with what is posted to `PATH` answered before the framework sees it."""

    path = PATH
    """of the route, as the framework's have it"""

    def __init__(self, app: FastAPI) -> None:
        self._app, self._serving = app, app.state.serving
        self._edge = Edge(self._rank, self._serving.telemetry)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        direct = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        return (self._edge if direct else self._app)(scope, receive, send)

    async def _rank(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        # Of a name that comes twice, the first.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"][::-1]}
        try:
            answer, form = await _answer(self._serving, scope["state"], headers, receive)
        except errors.EXPECTED as error:
            await errors.answer(scope, error)(scope, receive, send)
            return
        about = [(b"content-length", b"%d" % len(answer)), (b"content-type", form.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": about})
        await send({"type": "http.response.body", "body": answer})
