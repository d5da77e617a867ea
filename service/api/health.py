"""Whether this worker lives, whether it can take traffic, and what it measured."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from service.api import Serving, WithServing
from service.features.store import State
from service.wire import Answer

router = APIRouter(tags=["health"])

ReadyStatus = Literal["ready", "loading", "failed", "undeployed", "draining"]


class Store(Answer):
    """Where features are kept beside the bundles."""

    name: str
    state: State
    """Failing while it is only tried now and then; unknown before it first answers."""


class Readiness(Answer):
    """What this worker can do now."""

    status: ReadyStatus
    """loading while a ranker waits for its version, failed where there is none that it could serve with,
    undeployed where no version was ever promoted."""
    worker: str
    provider: str | None
    """What computes, by onnxruntime's name; null while no version is in memory."""
    store: Store
    """Of the features. A store that fails makes no worker unready: answers are marked degraded."""
    rankers: dict[str, str | None]
    """Ranker -> the version it serves with; null while it has none."""
    failed: dict[str, str]
    """Version -> why it could not be loaded."""
    problems: list[str]
    """Why this worker does not do all that is deployed."""


@router.get("/livez", response_class=PlainTextResponse)
async def livez() -> str:
    """The process answers. A failure of anything else is `/readyz`'s."""
    return "alive\n"


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(serving: WithServing, response: Response) -> Readiness:
    """Ready: every deployed ranker serves. 503 while one loads, and once the service is told to end."""
    registry = serving.registry
    status = _status(serving)
    if status != "ready":
        response.status_code = 503
    served = registry.rankers()
    return Readiness(
        status=status,
        worker=registry.worker,
        provider=next((resident.model.provider for resident in registry.residents()), None),
        store=Store(name=serving.features.store.name, state=serving.features.store.state),
        rankers={name: ranker.version for name, ranker in served.items()},
        failed=registry.failed,
        problems=[f"{name}: {ranker.problem}" for name, ranker in served.items() if ranker.problem]
        + ([registry.complaint] if registry.complaint else []),
    )


def _status(serving: Serving) -> ReadyStatus:
    registry = serving.registry
    if serving.draining:
        return "draining"
    if registry.ready:
        return "ready"
    if registry.waiting:
        return "loading"
    promoted = any(ranker.deployed and ranker.deployed.version for ranker in registry.rankers().values())
    return "failed" if registry.complaint or promoted else "undeployed"


@router.get("/metrics", response_class=Response)
def metrics(request: Request, serving: WithServing) -> Response:
    """All figures in the format of Prometheus."""
    # A plain function, which FastAPI runs in a thread: files are read where workers share their figures.
    body, media_type = serving.telemetry.exposition(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
