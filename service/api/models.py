"""GET /v1/models: what versions there are."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter

from service.api import Serving, WithServing
from service.api.openapi import faults
from service.precision import Chosen
from service.versions import Version, VersionDetail
from service.wire import Answer

router = APIRouter(tags=["models"])


class ItemState(Answer):
    """How the worker that answers holds the state of a version's items."""

    mode: Literal["resident", "on_demand"]
    """Resident: filled ahead for every item; on demand: computed when needed, and the last used are kept."""
    rows: int
    """Items whose state is held."""
    bytes: int
    """That it may take in all workers together."""
    dtype: str
    shared: bool
    """Do the workers share what was filled ahead?"""
    note: str | None
    """Why it is on demand although it would fit, and what helps."""


class ModelLine(Version):
    """A version in a line."""

    item_state: ItemState | None
    """Null where this worker does not hold the version."""


class Models(Answer):
    """Every version in the models folder."""

    models: list[ModelLine]


class Model(VersionDetail):
    """A version, and what computes it in the worker that answers."""

    provider: str | None
    """onnxruntime's name for it; null where this worker does not hold the version."""
    precision: Chosen | None
    """What it is ranked in, and what that was found by; null where this worker does not hold the version."""
    item_state: ItemState | None
    """Null where this worker does not hold the version."""


@router.get("/v1/models")
async def models(serving: WithServing) -> Models:
    """Every version, with its state and the rankers deployed with it."""
    versions, states = await asyncio.to_thread(serving.versions.all), _item_states(serving)
    return Models(models=[ModelLine(**dict(line), item_state=states.get(line.version)) for line in versions])


@router.get("/v1/models/{version}", responses=faults(404, 422))
async def model(version: str, serving: WithServing) -> Model:
    """What a version claims about itself: tasks, features, formula, offline metrics, training config."""
    detail = await asyncio.to_thread(serving.versions.one, version)
    held = {resident.version: resident.model for resident in serving.registry.residents()}.get(version)
    return Model(
        **dict(detail),
        provider=held.provider if held else None,
        precision=held.precision if held else None,
        item_state=_item_states(serving).get(version),
    )


def _item_states(serving: Serving) -> dict[str, ItemState]:
    """By version, of those that this worker holds."""
    states = {resident.version: resident.model.state for resident in serving.registry.residents()}
    return {
        version: ItemState(
            mode=state.mode,
            rows=state.rows,
            bytes=state.bytes,
            dtype=state.dtype,
            shared=state.shared,
            note=state.note or None,
        )
        for version, state in states.items()
    }
