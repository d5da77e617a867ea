"""POST /v1/rank."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from service.api import Serving, codec, media, slate_json, slate_msgpack
from service.api.media import Media
from service.api.openapi import answer_of, body_of, faults
from service.errors import DeadlineExceeded, Forbidden
from service.wire import RankRequest, RankResponse


class _BytesRoute(APIRoute):
    """A route whose handler takes the request and gives the response, with nothing of FastAPI's around it.

    There is nothing for that to do here, and it costs a tenth of what a request of 100 candidates costs
    outside the engine. The route is documented as any other. FastAPI's way to this is to inherit.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI once."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(tags=["rank"], route_class=_BytesRoute)


@router.post(
    "/v1/rank",
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


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel what is inside when the caller leaves, so that its place in the queue is free at once.

    Raises:
        ClientDisconnect: the caller left.
    """
    work = asyncio.current_task()
    assert work is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        work.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and work.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
