"""Items that have changed, looked up anew behind the requests: many at a time, in columns.

A row that cannot be read is left to the requests that need it: they tell of it, and do without.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows
from service.bundle.encoder import Encoder
from service.bundle.errors import FeatureError
from service.bundle.given import Fields, Given, of_candidates
from service.bundle.rows import Items
from service.bundle.schema import ITEM_ID
from service.features.known import KnownItems, Learned, PartKey, Positions
from service.features.near import Entry, NearCache
from service.features.reads import TableReads
from service.features.store import RowKey
from service.features.views import held_values, part_text

RENEWED_AT_ONCE = 200
"""items that are read before others get their turn: some milliseconds"""

TOLD_AT_ONCE = 64
"""items that are told of before others get their turn: their state may be computed, in 1 to 2 ms"""

Renewed = Callable[[Encoder, Items], None]
"""Told of items of a version that are not as in its catalogue, as they stand by now."""


def told_nobody(encoder: Encoder, items: Items) -> None:
    """For who computes nothing of items before it is asked for."""


Parts = Mapping[str, Sequence[str | None]]
"""of keys, by path: the items' texts"""


@dataclass(frozen=True, slots=True)
class Looked:
    """One table, looked up for items ``[n]``.

    Attributes:
        reads: what the version reads of it.
        keys: ``[n]``
        entries: ``[n]``, None where the key lacks a part, so that there is no row.
    """

    reads: TableReads
    keys: Sequence[PartKey]
    entries: Sequence[Entry | None]

    def parts(self, encoder: Encoder) -> Parts:
        """Parts ``[n]`` of other tables' keys, the stored one over the version's."""
        held = held_values(encoder.tables[self.reads.name], self.keys, self.reads.parts)
        return {
            self.reads.paths[name]: [
                part_text(_fields(entry).get(name, value))
                for entry, value in zip(self.entries, held[name], strict=True)
            ]
            for name in self.reads.parts
        }

    def given(self, at: Positions) -> dict[str, Given]:
        """What is stored of the items at some positions, by path. FeatureError where no column holds it."""
        stored = ((nth, _fields(self.entries[one])) for nth, one in enumerate(at.tolist()))
        return of_candidates({nth: fields for nth, fields in stored if fields}, self.reads.paths)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of items ``[n]``.

    Attributes:
        rows: of the catalogue.
        until: how long it holds, on the clock.
        looked: the tables.
        parts: of their keys.
    """

    rows: Rows
    until: NDArray[np.float64]
    looked: Sequence[Looked]
    parts: Parts

    def learnable(self, at: Positions) -> Learned:
        """The items at some positions. FeatureError where no column holds what is stored."""
        nths, given = at.tolist(), dict[str, Given]()
        for table in self.looked:
            given |= table.given(at)
        keys = {table.reads.name: [table.keys[nth] for nth in nths] for table in self.looked}
        parts = {path: [texts[nth] for nth in nths] for path, texts in self.parts.items()}
        return Learned(at, self.rows[at], self.until[at], keys, parts, given)


async def renew(
    encoder: Encoder, near: NearCache, items: KnownItems, rows: Rows, within_s: float, renewed: Renewed
) -> None:
    """Look items ``[n]`` of the catalogue up, and keep what is found of them.

    Args:
        encoder: of the version.
        near: before the store.
        items: of the version.
        rows: theirs.
        within_s: seconds that the store has for a round trip: there is one a table and `RENEWED_AT_ONCE`.
        renewed: told of those that are not as in the catalogue, as they stand by now.
    """
    for start in range(0, len(rows), RENEWED_AT_ONCE):
        some, looked = rows[start : start + RENEWED_AT_ONCE], list[Looked]()
        parts: dict[str, Sequence[str | None]] = {}
        ids = {ITEM_ID: encoder.tables["item"].keys[0][some - 1].tolist()}
        for reads in items.tables:
            of_key = ((ids | parts)[path] for path in reads.key)
            keys = list(zip(repeat(reads.name, len(some)), *of_key, strict=True))
            looked.append(Looked(reads, keys, await _entries(near, keys, within_s)))
            parts |= looked[-1].parts(encoder)
        until = np.min([near.until(table.keys, table.entries) for table in looked], axis=0)
        sound = np.all([[not each or each.sound for each in table.entries] for table in looked], axis=0)
        at = np.flatnonzero(sound & (until > near.clock()))
        learned = _learned(encoder, items, Found(some, until, looked, parts), at)
        await asyncio.sleep(0)
        for each in learned:
            for begin in range(0, len(each.row), TOLD_AT_ONCE):
                renewed(encoder, each.part(slice(begin, begin + TOLD_AT_ONCE)))
                await asyncio.sleep(0)


async def _entries(near: NearCache, keys: Sequence[PartKey], within_s: float) -> list[Entry | None]:
    """What is stored of each key ``[n]``; unsound where the store does not say."""
    whole = [cast(RowKey, key) for key in dict.fromkeys(keys) if None not in key]
    found = dict(zip(whole, near.entries(whole), strict=True))
    if lacking := [key for key, entry in found.items() if entry is None]:
        found |= dict.fromkeys(lacking, Entry(None, False, -math.inf)) | await near.fetch(lacking, within_s)
    return [found.get(cast(RowKey, key)) for key in keys]


def _learned(encoder: Encoder, items: KnownItems, found: Found, at: Positions) -> list[Items]:
    """Keep what was found of the items at some positions, but for those that cannot be read.

    Those that are not as in the catalogue, as they stand.
    """
    try:
        return [items.learn(encoder, found.learnable(at))]
    except FeatureError:
        halves = np.array_split(at, 2) if len(at) > 1 else []
        return [learned for half in halves for learned in _learned(encoder, items, found, half)]


def _fields(entry: Entry | None) -> Fields:
    """What is stored for all versions; a version's own rows are those of its tables."""
    row = entry.row if entry else None
    return row.fields if row and row.version is None else {}
