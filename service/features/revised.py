"""Items that are not as in the catalogue: each encoded once, and called by a number never used again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows
from service.bundle.encoder import Encoder
from service.bundle.rows import Entities, Items

Numbers = Mapping[str, NDArray[np.float64]]
"""item fields that a formula may read, by name"""


class Revised:
    """At most so many of them: the oldest makes room for the next."""

    def __init__(self, encoder: Encoder, most: int) -> None:
        self._most = most
        self._slot = np.zeros(len(encoder.items), np.int32)  # of an item, from 1; 0 is as in the catalogue
        self._row = np.zeros(most + 1, np.int32)
        self._ids = np.zeros(most + 1, np.int64)
        self._kept = 0
        # Pages that nothing was written to take no memory.
        self._entities = encoder.revised(np.zeros(0, np.int32), {}).room(most + 1)
        self._numbers = {name: np.zeros(most + 1) for name in encoder.attributes}

    def items(self, rows: Rows, known: NDArray[np.bool_]) -> Items:
        """Items ``[N]`` as they stand now; those that are not known, as in the catalogue."""
        slots = self._slot[rows] * known
        at = np.flatnonzero(slots)
        slots = slots[at]
        numbers = {name: values[slots] for name, values in self._numbers.items()}
        return Items(rows, at, self._entities.take(slots), self._ids[slots], numbers)

    def keep(self, rows: Rows, entities: Entities, numbers: Numbers) -> tuple[NDArray[np.int64], Rows]:
        """Keep items ``[k]``: their ids, 0 of those beyond `most`; and the items that are not kept any more.

        One that is kept already as it is has the id that it had: its state need not be computed again.
        """
        slots = self._slot[rows]
        held = {name: values[slots] for name, values in self._numbers.items()}
        ids = self._ids[slots] * ~differ(entities, numbers, self._entities.take(slots), held)
        new = np.flatnonzero(ids == 0)
        self._slot[rows[new]] = 0
        new, beyond = new[: self._most], new[self._most :]
        ids[new] = np.arange(self._kept + 1, self._kept + len(new) + 1)
        slots = ((ids[new] - 1) % self._most + 1).astype(np.int32)
        gone = self._row[slots]
        gone = gone[self._slot[gone] == slots]
        self._slot[gone] = 0
        self._slot[rows[new]], self._row[slots], self._ids[slots] = slots, rows[new], ids[new]
        self._entities.put(slots, entities.take(new))
        for name, values in self._numbers.items():
            values[slots] = numbers[name][new]
        self._kept += len(new)
        return ids, np.concatenate([gone, rows[beyond]])

    def drop(self, rows: Rows) -> None:
        """These are as in the catalogue again."""
        self._slot[rows] = 0


def differ(
    entities: Entities, numbers: Numbers, others: Entities, other_numbers: Numbers
) -> NDArray[np.bool_]:
    """Which of the items ``[k]`` are not the same as others ``[k]``."""
    found = entities.differs(others)
    for name, now in numbers.items():
        held = other_numbers[name]
        found |= (held != now) & ~(np.isnan(held) & np.isnan(now))
    return found
