"""The items of a run: which rows of the catalogue, and which of them are not as it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows
from service.bundle.rows import Columns, Encoded


@dataclass(frozen=True, slots=True)
class Wanted:
    """The items of a run, of one request or several.

    Attributes:
        row: ``[N]`` of the catalogue.
        changed: columns ``[K]`` of those that are not as the catalogue has them, or None.
        at: ``[K]`` their positions among the ``N``, ascending.
        id: ``[K]`` their numbers, never used again otherwise; 0 where nothing is to be kept.
    """

    row: Rows
    changed: Columns | None
    at: Rows
    id: NDArray[np.int64]

    @staticmethod
    def of(batch: Sequence[Encoded]) -> Wanted:
        """The items of all requests, one after another."""
        if len(batch) == 1:
            return Wanted(batch[0].item_row, batch[0].fresh, batch[0].fresh_at, batch[0].fresh_id)
        starts = np.cumsum([0, *(len(encoded) for encoded in batch[:-1])], dtype=np.int32)
        changed = [encoded.fresh for encoded in batch if encoded.fresh is not None]
        return Wanted(
            np.concatenate([encoded.item_row for encoded in batch]),
            Columns.joined(changed) if changed else None,
            np.concatenate([encoded.fresh_at + start for encoded, start in zip(batch, starts, strict=True)]),
            np.concatenate([encoded.fresh_id for encoded in batch]),
        )

    def part(self, part: slice) -> Wanted:
        """Those from one position to another."""
        if part.stop - part.start >= len(self.row):
            return self
        of = slice(*np.searchsorted(self.at, (part.start, part.stop)))
        changed = None if self.changed is None else self.changed.part(of)
        return Wanted(self.row[part], changed, self.at[of] - np.int32(part.start), self.id[of])
