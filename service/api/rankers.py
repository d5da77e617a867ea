"""GET /v1/rankers and the operators' routes: what serves, and what shall."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request

from service import promotion
from service.api import WithServing, codec, media
from service.api.access import operators_only
from service.api.openapi import body_of, faults
from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, WorkerStatus
from service.bundle.fusion import FusionFormula
from service.errors import NotFollowed
from service.promotion import Promoted
from service.registry import Served
from service.wire import Answer, Promotion

router = APIRouter(tags=["rankers"])


class RankerState(Answer):
    """What a ranker serves with, and what it should."""

    ranker: str
    version: str | None
    """In the worker that answers; null while it serves with nothing."""
    since: float | None
    """Seconds since the epoch."""
    deployed: str | None
    """What every worker should serve it with."""
    previous: str | None
    """What a rollback leads to."""
    staged: str | None
    """What the workers are loading for it."""
    fusion: FusionFormula | None
    """In place of the version's own formula."""
    problem: str | None
    """Why the worker that answers does not do as deployed."""


class Rankers(Answer):
    """Every ranker."""

    rankers: list[RankerState]


class Workers(Answer):
    """Every live worker, as of its heartbeat."""

    workers: list[WorkerStatus]


@router.get("/v1/rankers")
async def rankers(serving: WithServing) -> Rankers:
    """Every ranker, with the version it serves with and the one it should."""
    # Of the folder, and not of what this worker has seen of it: an operator's last step shows at once.
    read = await asyncio.to_thread(deployment.read, serving.settings.models)
    desired = read.as_of(time.time()).rankers
    served = serving.registry.rankers()
    return Rankers(
        rankers=[_state(name, desired.get(name), served.get(name)) for name in sorted(desired | served)]
    )


@router.put(
    "/v1/rankers/{name}",
    dependencies=[operators_only],
    openapi_extra=body_of(Promotion),
    responses=faults(401, 403, 404, 409, 413, 415, 422, 503, 504),
)
async def promote(name: str, request: Request, serving: WithServing) -> Promoted:
    """Promote a version: every worker loads and verifies it, then the ranker moves, then the answer comes.

    A ranker of a new name is made. What a worker refuses, none serves: 409 with the reason a worker. Where a
    worker has not followed once the ranker has moved: 504 with the reason a worker.
    """
    deadline = asyncio.get_running_loop().time() + serving.settings.max_deadline_ms / 1e3
    body = await codec.read(request.headers, request.receive, serving.settings.max_body_bytes, deadline)
    wanted = codec.decode(body, codec.PROMOTION, media.sent(request.headers))
    with serving.operation():
        promoted = await promotion.promote(
            serving.settings.models,
            name,
            wanted.version,
            check=serving.check,
            timeout_s=serving.settings.swap_timeout_s,
        )
    return _followed(promoted)


@router.post(
    "/v1/rankers/{name}/rollback",
    dependencies=[operators_only],
    responses=faults(401, 403, 404, 409, 422, 503, 504),
)
async def rollback(name: str, serving: WithServing) -> Promoted:
    """Promote what the ranker served with before; twice is back again."""
    with serving.operation():
        promoted = await promotion.rollback(
            serving.settings.models, name, check=serving.check, timeout_s=serving.settings.swap_timeout_s
        )
    return _followed(promoted)


@router.get("/v1/workers", dependencies=[operators_only], responses=faults(401, 403))
def workers(serving: WithServing) -> Workers:
    """Every live worker: what it serves, what it has ready, what it could not load and why."""
    return Workers(workers=deployment.live(serving.settings.models))


def _followed(promoted: Promoted) -> Promoted:
    """Raise NotFollowed unless every worker has."""
    if promoted.behind:
        raise NotFollowed(promoted.ranker, promoted.version, promoted.behind)
    return promoted


def _state(name: str, deployed: DeployedRanker | None, served: Served | None) -> RankerState:
    deployed = deployed or DeployedRanker()
    return RankerState(
        ranker=name,
        version=served.version if served else None,
        since=served.since if served else None,
        deployed=deployed.version,
        previous=deployed.previous,
        staged=deployed.staged,
        fusion=deployed.fusion,
        problem=served.problem if served else None,
    )
