"""What to ask of a tiny bundle over HTTP, and what the answer must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.golden import GoldenRequest, agree
from tests.tiny import FUSION, Tiny
from tests.tiny_features import ITEMS, USERS, tiny_requests


def body(request: GoldenRequest) -> dict[str, Any]:
    """A golden request as a caller would send it."""
    candidates = [
        {"id": item, "features": request.inline[at]} if at in request.inline else item
        for at, item in enumerate(request.item_ids)
    ]
    return {
        "user_id": request.user_id,
        "user": request.user,
        "context": request.context,
        "candidates": candidates,
        "tasks": True,
    }


def various_requests(n: int = 20) -> list[GoldenRequest]:
    """The bundle's golden requests, and as many again of its users and items at random."""
    random = np.random.default_rng(0)
    drawn = [
        GoldenRequest(
            user_id=str(random.integers(USERS)),
            context={"tab": "feed", "hour": int(random.integers(24))},
            item_ids=tuple(map(str, random.choice(ITEMS, 30, replace=False).tolist())),
        )
        for _ in range(n)
    ]
    return [*tiny_requests(), *drawn]


@dataclass(frozen=True, slots=True)
class Expected:
    """True scores of a request's candidates ``[N]``: fused, and by task."""

    item_ids: tuple[str, ...]
    fused: NDArray[np.float64]
    tasks: Mapping[str, NDArray[np.float32]]

    @staticmethod
    def of(tiny: Tiny, request: GoldenRequest) -> Expected:
        """As numpy computes them."""
        encoded = request.encode(tiny.encoder)
        tasks = tiny.predict(encoded)
        attributes = {
            name: tiny.encoder.attribute(name, encoded.item_row, request.inline) for name in FUSION.attributes
        }
        return Expected(request.item_ids, FUSION.score(tasks, attributes), tasks)

    def fits(self, answer: Mapping[str, Any]) -> bool:
        """Every candidate in an answer with its scores, the best first? One that comes twice has the same."""
        ids = [item["id"] for item in answer["items"]]
        if sorted(ids) != sorted(self.item_ids):
            return False
        at = [self.item_ids.index(item) for item in ids]
        scores = np.array([item["score"] for item in answer["items"]])
        return (
            agree(scores, self.fused[at])
            and bool((np.diff(scores) <= 0).all())
            and all(
                agree(np.array([item["tasks"][task] for item in answer["items"]]), values[at])
                for task, values in self.tasks.items()
            )
        )
