"""Encoded rows: what the graphs read, and what the crosses still need to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Lists, Rows
from service.bundle.pieces import PIECE
from service.bundle.schema import Layout
from service.bundle.table import Table


@dataclass(frozen=True, slots=True)
class Columns:
    """A side's encoded rows: ``index [n, I]`` int32 and ``value [n, V]`` float32."""

    index: Rows
    value: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: NDArray[Any]) -> Columns:
        """A copy of the given rows, in that order."""
        return Columns(self.index.take(rows, axis=0), self.value.take(rows, axis=0))

    def part(self, rows: slice) -> Columns:
        """The given rows, and no copy of them."""
        return Columns(self.index[rows], self.value[rows])

    def put(self, rows: NDArray[Any], other: Columns) -> None:
        """Overwrite the given rows."""
        self.index[rows], self.value[rows] = other.index, other.value

    @staticmethod
    def joined(parts: Sequence[Columns]) -> Columns:
        """The rows of all, one after another; of one alone, its own."""
        if len(parts) == 1:
            return parts[0]
        index, value = ([getattr(part, name) for part in parts] for name in ("index", "value"))
        return Columns(np.concatenate(index), np.concatenate(value))

    def room(self, n: int) -> Columns:
        """Zeros for ``n`` rows of the same kind; pages that nothing is written to take no memory."""
        index, value = self.index.shape[1], self.value.shape[1]
        return Columns(np.zeros((n, index), np.int32), np.zeros((n, value), np.float32))

    def differs(self, other: Columns) -> NDArray[np.bool_]:
        """Which rows ``[n]`` are not the same."""
        different: NDArray[np.bool_] = (self.index != other.index).any(axis=1) | (
            self.value != other.value
        ).any(axis=1)
        return different

    @classmethod
    def zeros(cls, n: int, layout: Layout) -> Self:
        """Rows of nothing known."""
        return cls(np.zeros((n, layout.index_width), np.int32), np.zeros((n, layout.value_width), np.float32))


@dataclass(frozen=True, slots=True)
class Entities:
    """Encoded users or items.

    Attributes:
        columns: of their own side, ``[n]``.
        live: of the cross side, the live features filled in, ``[n]``; of width 0 for users.
        keys: codes ``[n, parts]`` of their part in the keys of tables looked up by user and item together.
    """

    columns: Columns
    live: Columns
    keys: NDArray[np.int64]

    def take(self, rows: NDArray[Any]) -> Entities:
        """A copy of the given rows, in that order."""
        return Entities(self.columns.take(rows), self.live.take(rows), self.keys.take(rows, axis=0))

    def part(self, rows: slice) -> Entities:
        """The given rows, and no copy of them."""
        return Entities(self.columns.part(rows), self.live.part(rows), self.keys[rows])

    def differs(self, other: Entities) -> NDArray[np.bool_]:
        """Which rows ``[n]`` are not the same."""
        different: NDArray[np.bool_] = (self.keys != other.keys).any(axis=1)
        return different | self.columns.differs(other.columns) | self.live.differs(other.live)

    @staticmethod
    def joined(parts: Sequence[Entities]) -> Entities:
        """The rows of all, one after another."""
        return Entities(
            Columns.joined([part.columns for part in parts]),
            Columns.joined([part.live for part in parts]),
            np.concatenate([part.keys for part in parts]),
        )

    def room(self, n: int) -> Entities:
        """Zeros for ``n`` rows of the same kind; pages that nothing is written to take no memory."""
        keys = np.zeros((n, self.keys.shape[1]), np.int64)
        return Entities(self.columns.room(n), self.live.room(n), keys)

    def put(self, rows: NDArray[Any], other: Entities) -> None:
        """Overwrite the given rows."""
        self.columns.put(rows, other.columns)
        self.live.put(rows, other.live)
        self.keys[rows] = other.keys


@dataclass(frozen=True, slots=True)
class Items:
    """``N`` items as they stand now: as the item table has them, but for those that were revised since.

    Attributes:
        row: ``[N]`` of the item table; 0 is unknown.
        revised: positions ``[k]`` among them, each once.
        entities: ``[k]``, the revised ones.
        ids: ``[k]``, what each is called as it is now, and never again otherwise; 0 where it is kept nowhere.
        numbers: ``[k]`` by name, the item fields that a formula may read.
    """

    row: Rows
    revised: NDArray[np.int64]
    entities: Entities
    ids: NDArray[np.int64]
    numbers: Mapping[str, NDArray[np.float64]]

    def part(self, of: slice) -> Items:
        """Some of items that all are revised."""
        numbers = {name: values[of] for name, values in self.numbers.items()}
        return Items(self.row[of], self.revised[of], self.entities.part(of), self.ids[of], numbers)

    def and_revised(self, others: Sequence[Items]) -> Items:
        """The same items, with those revised that are so in the others, too; no position comes twice."""
        parts = [self, *others]
        return Items(
            self.row,
            np.concatenate([part.revised for part in parts]),
            Entities.joined([part.entities for part in parts]),
            np.concatenate([part.ids for part in parts]),
            {name: np.concatenate([part.numbers[name] for part in parts]) for name in self.numbers},
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """One request of ``N`` candidates, ready for the engine.

    Attributes:
        user: ``[1]``.
        user_row: of the user table; 0 is unknown.
        item_row: rows ``[N]`` of the encoder's `items`; 0 is unknown.
        fresh: item columns ``[K]`` of the candidates that `items` does not hold as they are, or None.
        fresh_at: positions ``[K]`` of those candidates among the ``N``.
        fresh_id: ``[K]`` what those items are called as they are now, and never again otherwise; 0 where they
            are so in this request alone.
        cross: ``[N]``.
    """

    user: Columns
    user_row: int
    item_row: Rows
    fresh: Columns | None
    fresh_at: Rows
    fresh_id: NDArray[np.int64]
    cross: Columns

    def __len__(self) -> int:
        return len(self.item_row)

    @classmethod
    def known(cls, user: Columns, user_row: int, item_row: Rows, cross: Columns) -> Self:
        """A request of items that are all as `items` holds them."""
        return cls(user, user_row, item_row, None, item_row[:0], np.empty(0, np.int64), cross)


def table_rows(table: Table) -> Iterator[Rows]:
    """All rows of a table, row 0 included, in chunks of so many values that encoding one takes no time.

    A row is one value, and as many as its lists hold; a chunk has more than `PIECE` by one row's at most.
    """
    values = np.arange(len(table) + 1)
    for column in table.columns.values():
        if isinstance(column, Lists):
            values += column.offsets
    starts = np.flatnonzero(np.diff(values // PIECE, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(values)]):
        yield np.arange(start, end, dtype=np.int32)
