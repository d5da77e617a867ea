"""POST /v1/rank."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from service.api import WithServing, codec
from service.api.openapi import body_of, faults
from service.errors import DeadlineExceeded, Forbidden
from service.wire import RankRequest, RankResponse

router = APIRouter(tags=["rank"])


@router.post(
    "/v1/rank",
    response_model=RankResponse,
    openapi_extra=body_of(RankRequest),
    responses=faults(403, 404, 413, 415, 422, 429, 503, 504),
)
async def rank(request: Request, serving: WithServing) -> Response:
    """Put candidates in order for a user."""
    # Read as bytes, as validation and serialisation by the framework would cost more than the inference.
    arrived = asyncio.get_running_loop().time()
    settings = serving.settings
    body = await codec.read(request, settings.max_body_bytes, arrived + settings.deadline_s(None))
    wanted = codec.decode_rank(body, settings.max_candidates)
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
    answer = codec.encode(slate, request.state.request_id, tasks=wanted.tasks)
    return Response(answer, media_type="application/json")


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
