"""Requests for items as popular as things are: the second is wanted half as often as the first, and so on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Zipf:
    """Draws items by Zipf's law with exponent 1: the r-th most wanted has a chance of 1/r of the first's.

    Args:
        items: how many there are. Who is wanted most has nothing to do with its number.
        seed: of all that is drawn.
    """

    def __init__(self, items: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._until = np.cumsum(1 / np.arange(1, items + 1))
        self._by_rank = self._random.permutation(items)

    def items(self, n: int) -> NDArray[np.int64]:
        """Different items ``[n]``, each drawn from what the ones before it have left."""
        ranks: NDArray[np.int64] = np.zeros(0, np.int64)
        while len(ranks) < n:
            drawn = self._random.uniform(0, self._until[-1], n)
            ranks = np.concatenate([ranks, np.searchsorted(self._until, drawn, side="right")])
            ranks = ranks[np.sort(np.unique(ranks, return_index=True)[1])]
        return self._by_rank[ranks[:n]]

    def bodies(self, count: int, candidates: int, users: int) -> Iterator[dict[str, Any]]:
        """Requests of the workload's users and items, each for all task scores."""
        for _ in range(count):
            yield {
                "user_id": f"u{self._random.integers(users)}",
                "candidates": [f"i{item}" for item in self.items(candidates).tolist()],
                "tasks": True,
            }
