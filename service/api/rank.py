"""POST /v1/rank.

It is the one route that is asked hundreds of times a second, and has no use for what the framework can do on
the way to a route. So in a worker `DirectRank` stands before the framework; the framework's own route is
documented, and does the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.api import Serving, codec, errors, media, slate_json, slate_msgpack
from service.api.edge import Edge
from service.api.media import Media
from service.api.openapi import answer_of, body_of, faults
from service.errors import DeadlineExceeded, Forbidden
from service.wire import RankRequest, RankResponse

PATH = "/v1/rank"

WATCHED_AFTER_S = 0.01
"""Most are answered before it would be of use to know that their caller has left."""

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
    # Read as bytes, as validation and serialisation by the framework would cost more than the inference.
    arrived = asyncio.get_running_loop().time()
    settings = serving.settings
    body = await codec.read(request, settings.max_body_bytes, arrived + settings.deadline_s(None))
    wanted = codec.decode_rank(body, settings.max_candidates, media.sent(request.headers))
    if wanted.request_id is not None:
        request.state.request_id = wanted.request_id
    if wanted.fusion is not None and not settings.allow_request_fusion:
        raise Forbidden(
            "this service takes no formula from a request; RANKSERVE_ALLOW_REQUEST_FUSION=1 allows it"
        )
    deadline = arrived + settings.deadline_s(wanted.deadline_ms)
    try:
        async with while_connected(request), asyncio.timeout_at(deadline):
            slate = await serving.ranker.rank(wanted, deadline)
    except TimeoutError:
        raise DeadlineExceeded from None
    form = media.wanted(request.headers)
    encode = slate_msgpack.encode if form is Media.MSGPACK else slate_json.encode
    answer = encode(slate, request.state.request_id, tasks=wanted.tasks)
    return Response(answer, media_type=form)


class DirectRank:
    """The app, with what is posted to `PATH` answered before the framework sees it."""

    path = PATH
    """of the route, as the framework's have it"""

    def __init__(self, app: FastAPI) -> None:
        self._app, self._edge = app, Edge(self._rank, app.state.serving.telemetry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        direct = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        await (self._edge if direct else self._app)(scope, receive, send)

    async def _rank(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"], scope["route"] = self._app, self
        request = Request(scope, receive)
        try:
            response = await rank(request)
        except errors.EXPECTED as error:
            response = errors.answer(request, error)
        await response(scope, receive, send)


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside when the caller leaves, so that its place in the queue is free at once.

    Raises:
        ClientDisconnect: the caller left.
    """
    work, watcher = asyncio.current_task(), None
    assert work is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        work.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(watch())

    begins = asyncio.get_running_loop().call_later(WATCHED_AFTER_S, begin)
    try:
        yield
    except asyncio.CancelledError:
        if gone and work.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        begins.cancel()
        if watcher is not None:
            watcher.cancel()
