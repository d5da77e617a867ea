"""Which row of the state holds which item.

The rows are, in this order: the whole catalogue's, where it is resident; scratch rows, for what one run alone
needs; and the pool, from which the least recently used items make room for others. An item of the catalogue
is known by its row there, one whose features changed since by a number of its own.

Knows no arrays but its own, and belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows

Ids = NDArray[np.int64]

ABSENT = -1
UNKEPT = np.iinfo(np.int64).min
"""the id of an item that is not kept, plus its position in the run; changed ones have minus their number"""

LEAST_KEPT = UNKEPT // 2
FREE = np.iinfo(np.int64).max
"""when a row that holds nothing was last used: never the least recently"""

STEP = 1024
"""rows of the pool that come into use at a time"""

EVICTED = 16
"""one part in so many of the pool is evicted at a time"""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the items of a run are.

    Attributes:
        rows: ``[N]`` of the state.
        missing: positions ``[M]`` among the ``N`` of items whose state is yet to be computed, each one once.
        into: ``[M]`` rows where that is to be written.
        ids: ``[M]``; by these `Places.keep` knows them.
    """

    rows: Rows
    missing: NDArray[np.intp]
    into: Rows
    ids: Ids


class Places:
    """Which row holds which item.

    Args:
        items: of the catalogue.
        resident: are the first rows the catalogue's?
        scratch: rows that follow; no run may have more items.
        pool: rows that follow these, to begin with.
        most: rows that the pool may grow to.
        more: asked when the pool is full, tells how many rows it has by now.
    """

    def __init__(
        self, items: int, resident: bool, scratch: int, pool: int, most: int, more: Callable[[], int]
    ) -> None:
        self.hits = self.misses = self.evictions = 0
        self._resident = items if resident else 0
        self._pool, self._more = pool, more
        self._row_of = np.arange(items, dtype=np.int32) if resident else np.full(items, ABSENT, np.int32)
        self._row_of_changed: dict[int, int] = {}
        self._scratch = np.arange(self._resident, self._resident + scratch, dtype=np.int32)
        self._first = self._resident + scratch
        # Of the pool's rows: only those that have come into use take memory.
        self._id_of, self._used = np.empty(most, np.int64), np.empty(most, np.int64)
        self._free = np.empty(0, np.int32)
        self._end = self._run = 0

    @property
    def held(self) -> int:
        """Items whose state is held."""
        return self._resident + self._end - len(self._free)

    def place(self, item_row: Rows, changed_at: Rows, changed_id: Ids) -> Placed:
        """A row for each item of a run.

        Args:
            item_row: ``[N]`` of the catalogue.
            changed_at: positions ``[K]`` of those that are not as the catalogue has them.
            changed_id: ``[K]`` their numbers, never used again otherwise; 0 where nothing is to be kept.
        """
        self._run += 1
        rows = self._row_of.take(item_row)
        if len(changed_at):
            known = self._row_of_changed.get
            rows[changed_at] = [known(number, ABSENT) for number in changed_id.tolist()]
        absent = np.flatnonzero(rows < 0)
        self.hits += len(rows) - len(absent)
        self.misses += len(absent)
        if self._end:
            pooled = rows[rows >= self._first]
            self._used[pooled - self._first] = self._run
        if not len(absent):
            return Placed(rows, absent, self._free[:0], self._id_of[:0])
        ids = item_row.astype(np.int64)
        ids[changed_at] = np.where(changed_id > 0, -changed_id, UNKEPT + changed_at.astype(np.int64))
        unique, first, inverse = np.unique(ids[absent], return_index=True, return_inverse=True)
        kept = self._free_rows(int(np.count_nonzero(unique >= LEAST_KEPT)))
        into = np.concatenate([self._scratch[: len(unique) - len(kept)], kept])
        rows[absent] = into[inverse]
        return Placed(rows, absent[first], into, unique)

    def keep(self, placed: Placed) -> None:
        """Know the items by the rows that they were given, as their state has been written there."""
        kept = placed.into >= self._first
        rows, ids = placed.into[kept], placed.ids[kept]
        self._free = self._free[len(rows) :]
        self._id_of[rows - self._first] = ids
        self._used[rows - self._first] = self._run
        catalogue = ids >= 0
        self._row_of[ids[catalogue]] = rows[catalogue]
        changed = ~catalogue
        self._row_of_changed.update(zip((-ids[changed]).tolist(), rows[changed].tolist(), strict=True))

    def _free_rows(self, count: int) -> Rows:
        """Rows that hold nothing, at most so many: fewer where the run itself needs all others."""
        if len(self._free) < count:
            self._extend(count - len(self._free))
        if len(self._free) < count:
            self._evict(count - len(self._free))
        return self._free[:count]

    def _extend(self, count: int) -> None:
        if self._end == self._pool:
            self._pool = self._more()
        end = min(self._pool, self._end + max(count, STEP))
        self._used[self._end : end] = FREE
        rows = np.arange(self._first + self._end, self._first + end, dtype=np.int32)
        self._free, self._end = np.concatenate([self._free, rows]), end

    def _evict(self, count: int) -> None:
        """Free the least recently used rows, so many and a part of the pool at least; none of this run's."""
        used = self._used[: self._end]
        count = min(max(count, self._end // EVICTED), int(np.count_nonzero(used < self._run)))
        if not count:
            return
        gone = np.argpartition(used, count - 1)[:count]
        ids, used[gone] = self._id_of[gone], FREE
        self._row_of[ids[ids >= 0]] = ABSENT
        for number in (-ids[ids < 0]).tolist():
            del self._row_of_changed[number]
        self._free = np.concatenate([self._free, (gone + self._first).astype(np.int32)])
        self.evictions += count
