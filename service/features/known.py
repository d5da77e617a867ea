"""What is known of a version's items: whether the store says of one what the catalogue says, and until when.

A request then asks for nothing and encodes nothing of the items that are known: those which the store has
otherwise were encoded once, when they were last looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows, Value
from service.bundle.rows import Items
from service.features.views import View

if TYPE_CHECKING:
    from service.bundle.encoder import Encoder
    from service.features.reads import TableReads
    from service.features.store import RowKey

Fields = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Standing:
    """The candidates of a request, as far as they are known.

    Attributes:
        items: as they stand now; one that is not known, as in the catalogue.
        unknown: positions, ascending, of those that must be looked up.
        views: of the known, by table and position, where another table's key is made of them.
    """

    items: Items
    unknown: Sequence[int]
    views: Mapping[str, list[View | None]]


class KnownItems:
    """The items of one version's catalogue as the store has them; belongs to one event loop.

    Bounded by the catalogue: a number an item, and what is encoded of `most` that the store has otherwise.

    Args:
        encoder: of the version; not kept, as what is known must not keep a version in memory.
        tables: what it reads of the tables whose keys follow from the item.
        most: items that are kept as the store has them; the oldest goes first.
        clock: seconds, never going back.
    """

    def __init__(
        self, encoder: Encoder, tables: Sequence[TableReads], most: int, clock: Callable[[], float]
    ) -> None:
        count = len(encoder.items)
        self.tables = tables
        self._clock = clock
        # Row 0 stays: nothing is ever known of all the items that are not in the catalogue.
        self._until = np.full(count, -math.inf)
        self._views: dict[str, list[View | None]] = {
            reads.name: [None] * count for reads in tables if reads.parts
        }
        self._revised = _Revised(encoder, most)

    def standing(self, encoder: Encoder, item_ids: Sequence[str], inline: Collection[int]) -> Standing:
        """What is known of the candidates ``[N]``; nothing of those that bring fields of their own."""
        rows = encoder.item_rows(item_ids)
        known = self._until[rows] > self._clock()
        if inline:
            known[list(inline)] = False
        unknown = [] if known.all() or not self.tables else np.flatnonzero(~known).tolist()
        row_of = rows.tolist() if self._views else []
        views = {name: [held[row] for row in row_of] for name, held in self._views.items()}
        return Standing(self._revised.items(rows, known), unknown, views)

    def learn(
        self, encoder: Encoder, rows: Rows, until: NDArray[np.float64], views: Sequence[Sequence[View]]
    ) -> None:
        """What the store says of some items of the catalogue.

        Args:
            encoder: of the version.
            rows: ``[k]`` of the catalogue.
            until: ``[k]``, how long that holds, on the clock.
            views: ``[k]`` for each of `tables`, all of them sound.
        """
        adds: list[dict[str, Value]] = [{} for _ in rows]
        for each in views:
            for at, view in enumerate(each):
                adds[at] |= view.adds
        telling = {row: fields for row, fields in zip(rows.tolist(), adds, strict=True) if fields}
        self._revised.drop(rows)
        self._until[rows] = until
        self._until[self._revised.keep(encoder, telling)] = -math.inf
        for reads, each in zip(self.tables, views, strict=True):
            if held := self._views.get(reads.name):
                for row, view in zip(rows.tolist(), each, strict=True):
                    held[row] = view if view.silent else View({}, view.parts, True)

    def forget(self, encoder: Encoder, keys: Iterable[RowKey] | None) -> None:
        """Some rows of the store have changed, or all may have for None."""
        names = {reads.name for reads in self.tables}
        changed = [key for key in keys if key[0] in names] if keys is not None else None
        if changed is None or any(name != "item" for name, *_ in changed):
            self._until.fill(-math.inf)
        elif changed:
            self._until[encoder.item_rows(key[1] for key in changed)] = -math.inf


class _Revised:
    """Items that are not as in the catalogue, each encoded once; the oldest makes room for the next."""

    def __init__(self, encoder: Encoder, most: int) -> None:
        self._most = most
        self._slot = np.zeros(len(encoder.items), np.int32)  # of an item, from 1; 0 is as in the catalogue
        self._row = np.zeros(most + 1, np.int32)
        self._ids = np.zeros(most + 1, np.int64)
        self._kept = 0
        # Pages that nothing was written to take no memory.
        self._entities = encoder.revised(np.zeros(0, np.int32), []).room(most + 1)
        self._numbers = {name: np.zeros(most + 1) for name in encoder.attributes}

    def items(self, rows: Rows, known: NDArray[np.bool_]) -> Items:
        """Items ``[N]`` as they stand now; those that are not known, as in the catalogue."""
        slots = self._slot[rows] * known
        at = np.flatnonzero(slots)
        slots = slots[at]
        numbers = {name: values[slots] for name, values in self._numbers.items()} if len(at) else {}
        return Items(rows, at, self._entities.take(slots), self._ids[slots], numbers)

    def keep(self, encoder: Encoder, fields: Mapping[int, Fields]) -> Rows:
        """Encode items of the given rows, with fields in place of the catalogue's; gives back what went."""
        rows = np.fromiter(fields, np.int32, len(fields))[: self._most]
        if not len(rows):
            return rows
        brought = list(fields.values())[: len(rows)]
        numbers = np.arange(self._kept, self._kept + len(rows))
        slots = numbers % self._most + 1
        inline = dict(enumerate(brought))
        self._entities.put(slots, encoder.revised(rows, brought))
        for name, values in self._numbers.items():
            values[slots] = encoder.attribute(name, rows, inline)
        gone = self._row[slots]
        gone = gone[self._slot[gone] == slots]
        self._slot[gone] = 0
        self._slot[rows], self._row[slots], self._ids[slots] = slots, rows, numbers + 1
        self._kept += len(rows)
        return np.concatenate([gone, np.fromiter(fields, np.int32)[len(rows) :]])

    def drop(self, rows: Rows) -> None:
        """These are as in the catalogue again."""
        self._slot[rows] = 0
