"""GET /v1/models: what versions there are."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from service.api import WithServing
from service.api.openapi import faults
from service.versions import Version, VersionDetail
from service.wire import Answer

router = APIRouter(tags=["models"])


class Models(Answer):
    """Every version in the models folder."""

    models: list[Version]


class Model(VersionDetail):
    """A version, and what computes it in the worker that answers."""

    provider: str | None
    """onnxruntime's name for it; null where this worker does not hold the version."""


@router.get("/v1/models")
async def models(serving: WithServing) -> Models:
    """Every version, with its state and the rankers deployed with it."""
    return Models(models=await asyncio.to_thread(serving.versions.all))


@router.get("/v1/models/{version}", responses=faults(404, 422))
async def model(version: str, serving: WithServing) -> Model:
    """What a version claims about itself: tasks, features, formula, offline metrics, training config."""
    detail = await asyncio.to_thread(serving.versions.one, version)
    providers = {resident.version: resident.model.provider for resident in serving.registry.residents()}
    return Model(**dict(detail), provider=providers.get(version))
