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

from service.bundle.columns import Rows, as_numbers
from service.bundle.given import Given
from service.bundle.rows import Entities, Items
from service.features.coded import Coded, Noted
from service.features.revised import Numbers, Revised, differ

if TYPE_CHECKING:
    from service.bundle.encoder import Encoder
    from service.features.reads import TableReads
    from service.features.store import RowKey

Positions = NDArray[np.intp]
PartKey = tuple[str | None, ...]
"""a key of which a part may be missing, so that there is no row of it"""

OF_ITEM_ID = "item"
"""the table whose key is the item's own id"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The candidates of a request, as far as they are known.

    Attributes:
        items: as they stand now; one that is not known, as in the catalogue.
        unknown: positions, ascending, of those that must be looked up.
        parts: of other tables' keys, by path: the candidates' texts.
    """

    items: Items
    unknown: Positions
    parts: Mapping[str, Noted[str | None]]


@dataclass(frozen=True, slots=True)
class Learned:
    """What the store says of items ``[k]`` of the catalogue.

    Attributes:
        at: their positions in the request that found them.
        rows: of the catalogue.
        until: how long it holds, on the clock.
        keys: ``[k]`` by table.
        parts: of other tables' keys, by path: texts ``[k]``.
        given: what is stored of them, by path.
    """

    at: Positions
    rows: Rows
    until: NDArray[np.float64]
    keys: Mapping[str, Sequence[PartKey]]
    parts: Mapping[str, Sequence[str | None]]
    given: Mapping[str, Given]


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
            f"{reads.name}.{name}": Coded[str | None](count, None) for reads in tables for name in reads.parts
        }
        self._keys = {reads.name: Coded[PartKey](count, ()) for reads in tables if reads.name != OF_ITEM_ID}
        self._revised = Revised(encoder, most)

    def standing(self, encoder: Encoder, item_ids: Sequence[str], anew: Collection[int]) -> Standing:
        """What is known of the candidates ``[N]``; nothing of those at the positions to look up anew."""
        rows = encoder.item_rows(item_ids)
        known = self._until[rows] > self._clock()
        if anew:
            known[list(anew)] = False
        unknown = np.flatnonzero(~known) if self.tables else np.zeros(0, np.intp)
        parts = {path: held.of(rows) for path, held in self._parts.items()}
        return Standing(self._revised.items(rows, known), unknown, parts)

    def learn(self, encoder: Encoder, found: Learned) -> Items:
        """Keep what was found of items. Those of them that are not as in the catalogue, as they stand.

        Raises:
            FeatureError: what is stored of one cannot be read; nothing is kept.
        """
        rows = found.rows
        entities, numbers = _encoded(encoder, rows, found.given)
        other = np.flatnonzero(differ(entities, numbers, *_encoded(encoder, rows, {})))
        entities, numbers = entities.take(other), {name: values[other] for name, values in numbers.items()}
        self._make_room()
        self._until[rows] = found.until
        for path, texts in found.parts.items():
            self._parts[path].put(rows, texts)
        for name, held in self._keys.items():
            held.put(rows, found.keys[name])
        self._revised.drop(np.delete(rows, other))
        ids, gone = self._revised.keep(rows[other], entities, numbers)
        self._until[gone] = -math.inf
        return Items(rows[other], found.at[other], entities, ids, numbers)

    def forget(self, encoder: Encoder, keys: Iterable[RowKey] | None, after_s: float = 0.0) -> Rows:
        """Some rows of the store have changed, or all may have for None; what they are known as ends by then.

        Returns the items ``[k]`` that something was known of; none where it may be any.
        """
        if keys is None:
            self._until.fill(-math.inf)
            return np.empty(0, np.int32)
        by_table: dict[str, list[RowKey]] = {}
        for key in keys:
            by_table.setdefault(key[0], []).append(key)
        own = encoder.item_rows(key[1] for key in by_table.get(OF_ITEM_ID, ()))
        others = (held.rows(by_table.get(name, ())) for name, held in self._keys.items())
        now, rows = self._clock(), np.unique(np.concatenate([own, *others])).astype(np.int32)
        rows = rows[self._until[rows] > now]
        self._until[rows] = np.minimum(self._until[rows], now + after_s)
        return rows

    def _make_room(self) -> None:
        """Begin anew where keys come and go: what no item has any more is not kept for ever."""
        held: list[Coded[str | None] | Coded[PartKey]] = [*self._parts.values(), *self._keys.values()]
        if any(each.full for each in held):
            for each in held:
                each.clear()
            self._until.fill(-math.inf)


def _encoded(encoder: Encoder, rows: Rows, given: Mapping[str, Given]) -> tuple[Entities, Numbers]:
    """Items ``[k]`` with what is given of some in place of the catalogue's."""
    numbers = {}
    for name in encoder.attributes:
        path = f"item.{name}"
        numbers[name] = as_numbers(encoder.tables["item"].columns[name].pick(rows), path)
        if own := given.get(path):
            numbers[name][own.rows] = as_numbers(own.column, path)
    return encoder.revised(rows, given), numbers
