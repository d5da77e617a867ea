"""Which row of the state holds which item.

The rows are, in this order: the whole catalogue's, where it is resident; scratch rows, for what one run alone
needs; and the pool, from which the least recently used items make room for others. An item of the catalogue
is known by its row there, one whose features changed since by a number of its own.

Knows no arrays but its own, and belongs to one thread, but for the size of the pool.
"""

from __future__ import annotations

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

LOOKED_AT = 8_192
"""rows that are looked at for those to evict, spread over all of the pool: as long as a request can wait"""

EVICTED = 16
"""one part in so many of these is evicted at a time"""

NUMBERS = 4
"""places a row of the pool for the numbers of changed items: two of one remainder are not known at once"""


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

    Attributes:
        pool: rows that there are by now; any thread may make it more, up to the most.
        hits, misses, evictions: items of runs whose state was there, or was not, and that made room.
    """

    def __init__(self, items: int, resident: bool, scratch: int, pool: int, most: int) -> None:
        self.pool = pool
        self.hits = self.misses = self.evictions = 0
        self._resident = items if resident else 0
        self._row_of = np.arange(items, dtype=np.int32) if resident else np.full(items, ABSENT, np.int32)
        self._scratch = np.arange(self._resident, self._resident + scratch, dtype=np.int32)
        self._first = self._resident + scratch
        # Of the pool's rows: only those that have come into use take memory. Not one has a number at first.
        self._id_of, self._used = np.zeros(max(1, most), np.int64), np.empty(most, np.int64)
        # By the remainder of a number, where in the pool it was last put: it holds as long as it is there.
        self._at_of = np.zeros(NUMBERS * max(1, most), np.int32)
        self._free = np.empty(0, np.int32)
        self._end = self._run = self._hand = 0

    @property
    def held(self) -> int:
        """Items whose state is held."""
        return self._resident + self._end - len(self._free)

    @property
    def full(self) -> bool:
        """Have all rows of the pool come into use?"""
        return self._end >= self.pool

    def recent(self) -> Rows:
        """Rows of the catalogue whose items the pool holds, the last used first. Any thread may ask."""
        used = self._used[: self._end].copy()
        ids = self._id_of[: len(used)].copy()  # behind it: what was used then has its id by now
        held = np.flatnonzero((used != FREE) & (ids >= 0))
        return ids[held[np.argsort(-used[held])]].astype(np.int32)

    def place(self, item_row: Rows, changed_at: Rows, changed_id: Ids) -> Placed:
        """A row for each item of a run.

        Args:
            item_row: ``[N]`` of the catalogue.
            changed_at: positions ``[K]`` of those that are not as the catalogue has them.
            changed_id: ``[K]`` their numbers, never used again otherwise; 0 where nothing is to be kept.
        """
        self._run += 1
        rows = self._row_of.take(item_row)
        if self._resident and not len(changed_at):
            self.hits += len(rows)
            return Placed(rows, np.empty(0, np.intp), self._free[:0], self._id_of[:0])
        if len(changed_at):
            at = self._at_of[changed_id % len(self._at_of)]
            known = (changed_id > 0) & (self._id_of[at] == -changed_id)
            rows[changed_at] = np.where(known, self._first + at, ABSENT)
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
        # One whose place another takes is not known any more, and in the end makes room as what nobody uses.
        self._at_of[-ids[~catalogue] % len(self._at_of)] = rows[~catalogue] - self._first

    def _free_rows(self, count: int) -> Rows:
        """Rows that hold nothing, at most so many: fewer where the run itself needs all others."""
        if len(self._free) < count:
            self._extend(count - len(self._free))
        if len(self._free) < count:
            self._evict(count - len(self._free))
        return self._free[:count]

    def _extend(self, count: int) -> None:
        end = min(self.pool, self._end + max(count, STEP))
        self._used[self._end : end] = FREE
        rows = np.arange(self._first + self._end, self._first + end, dtype=np.int32)
        self._free, self._end = np.concatenate([self._free, rows]), end

    def _evict(self, count: int) -> None:
        """Free so many of the least recently used rows, or some more; none of this run's."""
        apart = -(-self._end // LOOKED_AT)
        for _ in range(apart):
            self._hand = (self._hand + 1) % apart
            count -= self._evict_of(np.s_[self._hand : self._end : apart], count)
            if count <= 0:
                return

    def _evict_of(self, looked_at: slice, count: int) -> int:
        """Free the least recently used rows among these. Returns how many."""
        used = self._used[looked_at]
        count = min(max(count, len(used) // EVICTED), int(np.count_nonzero(used < self._run)))
        if not count:
            return 0
        gone = looked_at.start + looked_at.step * np.argpartition(used, count - 1)[:count]
        ids, self._used[gone] = self._id_of[gone], FREE
        self._row_of[ids[ids >= 0]], self._id_of[gone] = ABSENT, UNKEPT
        self._free = np.concatenate([self._free, (gone + self._first).astype(np.int32)])
        self.evictions += count
        return count
