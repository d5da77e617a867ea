"""Golden requests: raw rows and the scores that a true copy of the model gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.manifest import TOLERANCE
from service.bundle.rows import Encoded
from service.bundle.snapshot import read_arrays

REQUESTS_FILE = "golden.json"
SCORES_FILE = "golden.npz"


class GoldenRequest(BaseModel):
    """A raw request, as a caller would send it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: str | None
    user: dict[str, Any] = {}
    context: dict[str, Any] = {}
    item_ids: Annotated[tuple[str, ...], Field(min_length=1)]
    inline: dict[int, dict[str, Any]] = {}

    def encode(self, encoder: Encoder) -> Encoded:
        """The request, ready for the engine."""
        inline: Mapping[int, Mapping[str, Value]] = self.inline
        return encoder.request(self.user_id, self.user, self.context, self.item_ids, inline)


Scores = Mapping[str, NDArray[np.float32]]

_REQUESTS = TypeAdapter(tuple[GoldenRequest, ...])


def agree(ours: NDArray[Any], theirs: NDArray[Any], tolerance: float = TOLERANCE) -> bool:
    """Are all numbers finite, and ``|ours - theirs| <= tolerance * max(1, |theirs|)``?"""
    return disagreement(ours, theirs) <= tolerance


def disagreement(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The greatest ``|ours - theirs| / max(1, |theirs|)``; infinite for another shape or no finite number."""
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max(initial=0.0))


def write_golden(folder: Path, requests: Sequence[GoldenRequest], scores: Sequence[Scores]) -> None:
    """Write the requests and, a request each, its task scores ``[N]``."""
    (folder / REQUESTS_FILE).write_bytes(_REQUESTS.dump_json(tuple(requests), indent=1))
    arrays = {f"{at}/{task}": values for at, by_task in enumerate(scores) for task, values in by_task.items()}
    np.savez(folder / SCORES_FILE, allow_pickle=False, **arrays)


def read_golden(folder: Path) -> tuple[tuple[GoldenRequest, ...], list[dict[str, NDArray[np.float32]]]]:
    """Requests and their scores. Raises BundleError where the files hold none."""
    try:
        requests = _REQUESTS.validate_json((folder / REQUESTS_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(f"{REQUESTS_FILE} cannot be read: {error}") from error
    if not requests:
        raise BundleError(f"{REQUESTS_FILE} holds no request; a bundle must prove itself by at least one")
    scores: list[dict[str, NDArray[np.float32]]] = [{} for _ in requests]
    for name, values in read_arrays(folder / SCORES_FILE).items():
        at, _, task = name.partition("/")
        if not at.isdecimal() or int(at) >= len(scores):
            raise BundleError(f"{SCORES_FILE} holds {name!r}, which is of no request")
        scores[int(at)][task] = values
    if not all(scores):
        raise BundleError(f"{SCORES_FILE} holds no scores of request {scores.index({})}")
    return requests, scores
