"""What is known of a version's items: whether the store says of one what the catalogue says, and until when.

A request then asks for nothing and encodes nothing of the items that are known: those which the store has
otherwise were encoded once, when they were last looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows, Value
from service.bundle.rows import Entities, Items
from service.features.views import View

if TYPE_CHECKING:
    from service.bundle.encoder import Encoder
    from service.features.reads import TableReads
    from service.features.store import RowKey

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Fields = Mapping[str, Value]
PartKey = tuple[str | None, ...]
"""a key of which a part may be missing, so that there is no row of it"""
Numbers = Mapping[str, NDArray[np.float64]]

OF_ITEM_ID = "item"
"""the table whose key is the item's own id"""


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
    views: Mapping[str, list[View]]


@dataclass(frozen=True, slots=True)
class Learned:
    """What the store says of an item of the catalogue.

    Attributes:
        at: its position in the request that found it.
        row: of the catalogue.
        until: how long it holds, on the clock.
        keys: for each of the tables.
        views: for each of the tables, all of them sound.
    """

    at: int
    row: int
    until: float
    keys: tuple[PartKey, ...]
    views: tuple[View, ...]


class KnownItems:
    """The items of one version's catalogue as the store has them; belongs to one event loop.

    Bounded by the catalogue: some numbers an item, and `most` of those that the store has otherwise, encoded.

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
        self._parts = {
            reads.name: _Coded[PartKey, View](count, _of_parts, (None,) * len(reads.parts))
            for reads in tables
            if reads.parts
        }
        self._keys = {
            reads.name: _Coded[PartKey, PartKey](count, tuple, ())
            for reads in tables
            if reads.name != OF_ITEM_ID
        }
        self._revised = _Revised(encoder, most)

    def standing(self, encoder: Encoder, item_ids: Sequence[str], inline: Collection[int]) -> Standing:
        """What is known of the candidates ``[N]``; nothing of those that bring fields of their own."""
        rows = encoder.item_rows(item_ids)
        known = self._until[rows] > self._clock()
        if inline:
            known[list(inline)] = False
        unknown = [] if known.all() or not self.tables else np.flatnonzero(~known).tolist()
        views = {name: held.of(rows) for name, held in self._parts.items()}
        return Standing(self._revised.items(rows, known), unknown, views)

    def learn(self, encoder: Encoder, found: Sequence[Learned]) -> Items:
        """Keep what was found of items. Those of them that are not as in the catalogue, as they stand."""
        rows = np.array([each.row for each in found], np.int32)
        self._make_room()
        self._until[rows] = [each.until for each in found]
        for at, reads in enumerate(self.tables):
            if reads.name in self._parts:
                self._parts[reads.name].put(rows, [each.views[at].parts for each in found])
            if reads.name in self._keys:
                self._keys[reads.name].put(rows, [each.keys[at] for each in found])
        told = [(each.at, each.row, adds) for each in found if (adds := _adds(each))]
        self._revised.drop(np.setdiff1d(rows, [row for _, row, _ in told]))
        if not told:
            return self._revised.items(rows, np.zeros(len(rows), bool))
        positions, of_told = (
            np.array([at for at, *_ in told]),
            np.array([row for _, row, _ in told], np.int32),
        )
        entities, numbers = _encoded(encoder, of_told, [adds for *_, adds in told])
        ids, gone = self._revised.keep(of_told, entities, numbers)
        self._until[gone] = -math.inf
        return Items(of_told, positions, entities, ids, numbers)

    def forget(self, encoder: Encoder, keys: Iterable[RowKey] | None) -> None:
        """Some rows of the store have changed, or all may have for None."""
        if keys is None:
            self._until.fill(-math.inf)
            return
        by_table: dict[str, list[RowKey]] = {}
        for key in keys:
            by_table.setdefault(key[0], []).append(key)
        self._until[encoder.item_rows(key[1] for key in by_table.get(OF_ITEM_ID, ()))] = -math.inf
        for name, held in self._keys.items():
            self._until[held.rows(by_table.get(name, ()))] = -math.inf

    def _make_room(self) -> None:
        """Begin anew where keys come and go: what no item has any more is not kept for ever."""
        held: list[_Coded[PartKey, View] | _Coded[PartKey, PartKey]]
        held = [*self._parts.values(), *self._keys.values()]
        if any(each.full for each in held):
            for each in held:
                each.clear()
            self._until.fill(-math.inf)


def _of_parts(parts: PartKey) -> View:
    return View({}, parts, True)


def _adds(found: Learned) -> dict[str, Value]:
    adds: dict[str, Value] = {}
    for view in found.views:
        adds |= view.adds
    return adds


def _encoded(encoder: Encoder, rows: Rows, fields: Sequence[Fields]) -> tuple[Entities, Numbers]:
    """Items ``[k]`` with fields in place of the catalogue's."""
    inline = dict(enumerate(fields))
    numbers = {name: encoder.attribute(name, rows, inline) for name in encoder.attributes}
    return encoder.revised(rows, fields), numbers


class _Coded(Generic[K, V]):
    """One of a few values for each item, as a number each: what is made of a key, once."""

    def __init__(self, count: int, make: Callable[[K], V], nothing: K) -> None:
        self._make, self._nothing = make, nothing
        self._code = np.zeros(count, np.int32)
        self.clear()

    @property
    def full(self) -> bool:
        """Are there many more values than items, most of which nobody has any more?"""
        return len(self._values) > 2 * len(self._code) + 1

    def clear(self) -> None:
        """Forget all."""
        self._codes: dict[K, int] = {self._nothing: 0}
        self._values = [self._make(self._nothing)]
        self._code.fill(0)

    def of(self, rows: Rows) -> list[V]:
        """The values ``[n]`` of items."""
        values = self._values
        return [values[code] for code in self._code[rows].tolist()]

    def put(self, rows: Rows, keys: Sequence[K]) -> None:
        """Note the keys ``[n]`` of items."""
        self._code[rows] = [self._number(key) for key in keys]

    def rows(self, keys: Iterable[K]) -> NDArray[np.intp]:
        """The items that have one of the keys."""
        codes = [code for key in keys if (code := self._codes.get(key))]
        if not codes:
            return np.empty(0, np.intp)
        chosen = np.zeros(len(self._values), bool)
        chosen[codes] = True
        return np.flatnonzero(chosen[self._code])

    def _number(self, key: K) -> int:
        if (code := self._codes.get(key)) is None:
            code = self._codes[key] = len(self._values)
            self._values.append(self._make(key))
        return code


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
        numbers = {name: values[slots] for name, values in self._numbers.items()}
        return Items(rows, at, self._entities.take(slots), self._ids[slots], numbers)

    def keep(self, rows: Rows, entities: Entities, numbers: Numbers) -> tuple[NDArray[np.int64], Rows]:
        """Keep items ``[k]``: their ids, 0 of those beyond `most`; and the items that are not kept any more.

        One that is kept already as it is has the id that it had: its state need not be computed again.
        """
        ids = self._ids[self._slot[rows]] * ~self._differ(rows, entities, numbers)
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

    def _differ(self, rows: Rows, entities: Entities, numbers: Numbers) -> NDArray[np.bool_]:
        """Which of the items ``[k]`` are not kept as they are."""
        slots = self._slot[rows]
        differ: NDArray[np.bool_] = (slots == 0) | entities.differs(self._entities.take(slots))
        for name, values in self._numbers.items():
            held, now = values[slots], numbers[name]
            differ |= (held != now) & ~(np.isnan(held) & np.isnan(now))
        return differ
