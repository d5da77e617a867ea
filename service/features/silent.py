"""Rows that are known to tell nothing, of a table by the item's id and parts that are the request's.

A request asks for as many of them as it has candidates, and most say what the version's own table does, or
are not stored: that is then one look at an array for all candidates, and not a look at each.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows
from service.bundle.encoder import Encoder
from service.bundle.schema import ITEM_ID
from service.features.reads import TableReads
from service.features.store import RowKey

Others = tuple[str, ...]
"""the parts of a key beside the item's id, in their order"""

PLACES = 16
"""of 8 bytes, for each row that may be near: small beside the row itself"""


class Silent:
    """The rows of one such table, as one version sees them; belongs to one event loop.

    Bounded: what is known beside the parts that were asked for longest ago goes first.

    Args:
        encoder: of the version; not kept.
        reads: what it reads of the table.
        near_rows: most rows that are near. A catalogue that is larger by far is not noted at all.
    """

    def __init__(self, encoder: Encoder, reads: TableReads, near_rows: int) -> None:
        self._name, self._at = reads.name, 1 + reads.key.index(ITEM_ID)
        self._count = len(encoder.items)
        self._most = PLACES * near_rows // self._count
        self._until: OrderedDict[Others, NDArray[np.float64]] = OrderedDict()

    def unknown(self, others: Others, rows: Rows, now: float) -> NDArray[np.intp]:
        """Positions, ascending, among the items ``[N]`` of those whose row may tell something."""
        if others not in self._until:
            return np.arange(len(rows))
        self._until.move_to_end(others)
        return np.flatnonzero(self._until[others][rows] <= now)

    def learn(self, others: Others, rows: Rows, until: Sequence[float]) -> None:
        """The rows of items ``[n]`` tell nothing, until then. An item beyond the catalogue is passed over."""
        if others not in self._until:
            if not self._most or not np.any(rows[np.asarray(until) > -math.inf]):
                return
            while len(self._until) >= self._most:
                self._until.popitem(last=False)
            self._until[others] = np.full(self._count, -math.inf)
        self._until[others][rows] = until
        self._until[others][0] = -math.inf

    def forget(self, encoder: Encoder, keys: Iterable[RowKey] | None) -> None:
        """Some rows of the store have changed, or all may have for None."""
        if keys is None:
            self._until.clear()
        elif self._until:
            changed: defaultdict[Others, list[str]] = defaultdict(list)
            for key in keys:
                if key[0] == self._name:
                    changed[key[1 : self._at] + key[self._at + 1 :]].append(key[self._at])
            for others in changed.keys() & self._until.keys():
                self._until[others][encoder.item_rows(changed[others])] = -math.inf
