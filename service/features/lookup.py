"""What is known of a request's user and candidates beyond what it brings and what its version's tables hold.

The order is: request, near cache, store, the bundle's table, default. This puts what the store says, where it
differs from the table, beneath what the request brings; the encoder puts both over the table. A `match` that
goes from the ids of a history to another value of theirs uses the version's table alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.bundle.schema import ITEM_ID, USER_ID, Scope
from service.features.brought import Brought, Fields
from service.features.known import KnownItems, Standing
from service.features.near import Entry, NearCache
from service.features.reads import TableReads, table_reads
from service.features.store import RowKey
from service.features.views import View, part_text, views
from service.telemetry import Telemetry

Found = dict[RowKey, Entry]
PartKey = tuple[str | None, ...]
"""a key of which a part may be missing, so that there is no row of it"""

VIEWED_AT_ONCE = 100
"""rows that are made views of before others get their turn: some milliseconds"""
NOTHING = View({}, (), True)
"""what is nothing to add"""
MOST_ITEMS = 50_000


@dataclass(frozen=True, slots=True)
class _Looked:
    """One table, looked up: a view a candidate, or one for all."""

    reads: TableReads
    views: Sequence[View]
    at: Sequence[int]
    """positions of those that were looked up: what is known beside them tells nothing more"""

    def telling(self) -> Sequence[int]:
        """The positions of the views that tell anything."""
        return [at for at in self.at if not self.views[at].silent]


Looked = dict[str, _Looked]
"""by the name of the table"""


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version reads, and what is known of its items."""

    reads: tuple[TableReads, ...]
    items: KnownItems


@dataclass(slots=True)
class _Search:
    """Looks rows up for one version, near and among those just fetched; and collects what is missing.

    What is missing is taken for what it last was, or for not stored: the keys which follow from it are known
    at once.
    """

    encoder: Encoder
    near: NearCache
    standing: Standing
    fetched: Found
    looked: Looked = field(default_factory=dict)
    item_keys: list[Sequence[PartKey]] = field(default_factory=list)
    """of the items that are looked up, by table"""
    missing: Found = field(default_factory=dict)
    hits: int = 0

    async def look(self, reads: TableReads, brought: Brought) -> None:
        """Look a table up, given those that its key is made of."""
        if reads.scope is Scope.ITEM:
            await self._look_items(reads, brought)
            return
        views = await self._views(reads, _keys(reads, brought, self.looked))
        self.looked[reads.name] = _Looked(reads, views, range(len(views)))

    async def _look_items(self, reads: TableReads, brought: Brought) -> None:
        """Look up what follows from the item, for the items that are not known."""
        n, unknown = len(brought.item_ids), self.standing.unknown
        every = cast(list[View], self.standing.views.get(reads.name) or [NOTHING] * n)
        self.hits += n - len(unknown)
        if unknown:
            keys = _keys(reads, brought, self.looked)
            keys = keys if len(unknown) == n else [keys[at] for at in unknown]
            self.item_keys.append(keys)
            for at, view in zip(unknown, await self._views(reads, keys), strict=True):
                every[at] = view
        self.looked[reads.name] = _Looked(reads, every, unknown)

    async def _views(self, reads: TableReads, keys: Sequence[PartKey]) -> Sequence[View]:
        """A view a key."""
        found = self.near.views(keys, reads)
        self.hits += len(found)
        if None in found:
            await self._fill(reads, keys, found)
        return cast(list[View], found)

    async def _fill(self, reads: TableReads, keys: Sequence[PartKey], found: list[View | None]) -> None:
        """Put a view in every gap: of an entry that has none yet, of one that is missing, or of no key."""
        entries = {at: self._entry(keys[at]) for at, view in enumerate(found) if view is None}
        made = await self._made(reads, {entry: keys[at] for at, entry in entries.items() if entry})
        nobody = View({}, (None,) * len(reads.parts), True)
        for at, entry in entries.items():
            found[at] = made[entry] if entry else nobody

    def _entry(self, key: PartKey) -> Entry | None:
        """What is known of a key; None where it lacks a part, and so is none."""
        if entry := self.near.held(key):
            return entry
        self.hits -= 1
        if None in key:
            return None
        known = cast(RowKey, key)
        if entry := self.fetched.get(known) or self.missing.get(known):
            return entry
        self.missing[known] = entry = self.near.stale(known) or Entry(None, True, 0.0)
        return entry

    async def _made(self, reads: TableReads, entries: Mapping[Entry, PartKey]) -> Mapping[Entry, View]:
        """What each entry is to the version, made only once, and some at a time."""
        made = {entry: view for entry in entries if (view := entry.seen(reads))}
        fresh = [entry for entry in entries if entry not in made]
        for at in range(0, len(fresh), VIEWED_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            some = fresh[at : at + VIEWED_AT_ONCE]
            keys = [cast(RowKey, entries[entry]) for entry in some]
            seen = views(self.encoder, reads, keys, [entry.row for entry in some])
            self.near.tell(keys, seen)
            for entry, view in zip(some, seen, strict=True):
                made[entry] = view if entry.sound else replace(view, sound=False)
                entry.see(reads, made[entry])
        return made


class Lookup:
    """Completes requests from what is known of a version's items, a near cache, and the store behind it.

    Args:
        near: before the store.
        telemetry: told of what was near.
        items: most items a version that are kept as the store has them, encoded.
    """

    def __init__(self, near: NearCache, telemetry: Telemetry, items: int = MOST_ITEMS) -> None:
        self._near, self._telemetry, self._most_items = near, telemetry, items
        self._versions: WeakKeyDictionary[Encoder, _Version] = WeakKeyDictionary()

    async def complete(self, encoder: Encoder, brought: Brought, within_s: float) -> tuple[Brought, bool]:
        """The request with all that is known, and whether the store could tell all that it was asked.

        One round trip for all rows that are not near; another only where a row turned out to make the key
        of a further one. Where all rows are near and were read before, nothing is awaited.

        Args:
            encoder: of the version.
            brought: as it came.
            within_s: seconds that the store has.
        """
        clock = asyncio.get_running_loop().time
        until, fetched = clock() + within_s, Found()
        version, drops = self._version(encoder), self._near.drops
        standing = version.items.standing(encoder, brought.item_ids, brought.inline.keys())
        search = await self._look(encoder, version, standing, brought, fetched)
        self._telemetry.near(search.hits, len(search.missing))
        sound = True
        while missing := search.missing:
            found = await self._near.fetch(list(missing), max(0.0, until - clock()))
            sound = sound and len(found) == len(missing)
            fetched |= missing | found
            search = await self._look(encoder, version, standing, brought, fetched)
        if standing.unknown and drops == self._near.drops:
            self._learn(version.items, search, brought)
        telling = [(table, at) for table in search.looked.values() for at in table.telling()]
        sound = sound and all(table.views[at].sound for table, at in telling)
        return _laid_under(replace(brought, items=standing.items), telling), sound

    def drop(self, keys: Collection[RowKey] | None) -> None:
        """Forget some rows, all of them for None: they have changed, or may have."""
        self._near.drop(keys)
        for encoder, version in self._versions.items():
            version.items.forget(encoder, keys)

    def hears(self, whether: bool) -> None:
        """Changes are told of from now on, or no longer: see `NearCache.hears`."""
        self._near.hears(whether)
        for encoder, version in self._versions.items():
            version.items.forget(encoder, None)

    def _version(self, encoder: Encoder) -> _Version:
        if encoder not in self._versions:
            reads = table_reads(encoder.schema, encoder.attributes)
            of_items = [table for table in reads if table.scope is Scope.ITEM]
            known = KnownItems(encoder, of_items, self._most_items, self._near.clock)
            self._versions[encoder] = _Version(reads, known)
        return self._versions[encoder]

    async def _look(
        self, encoder: Encoder, version: _Version, standing: Standing, brought: Brought, fetched: Found
    ) -> _Search:
        """Every table that the version reads, looked up."""
        search = _Search(encoder, self._near, standing, fetched)
        for reads in version.reads:
            await search.look(reads, brought)
        return search

    def _learn(self, items: KnownItems, search: _Search, brought: Brought) -> None:
        """Keep what was found of items of the catalogue, but of those that the request brings fields of."""
        rows = search.standing.items.row
        views = [search.looked[reads.name].views for reads in items.tables]
        until, position = dict[int, float](), dict[int, int]()
        for at, *keys in zip(search.standing.unknown, *search.item_keys, strict=True):
            if (row := int(rows[at])) and at not in brought.inline and all(each[at].sound for each in views):
                # There is no row of a key that lacks a part, and so none that could change.
                until[row] = min(math.inf if None in key else self._near.until(key) for key in keys)
                position[row] = at
        found = [[each[at] for at in position.values()] for each in views]
        ends = np.fromiter(until.values(), np.float64)
        items.learn(search.encoder, np.fromiter(until, np.int32), ends, found)


def _keys(reads: TableReads, brought: Brought, looked: Looked) -> list[PartKey]:
    """A table's keys, one for the request or one a candidate."""
    parts = [_part(path, brought, looked) for path in reads.key]
    if not reads.per_request:
        n = len(brought.item_ids)
        parts = [part if len(part) == n else [*part] * n for part in parts]
    return list(zip(repeat(reads.name), *parts))


def _part(path: str, brought: Brought, looked: Looked) -> Sequence[str | None]:
    """A part of a key, ``[1]`` or ``[N]``: as the request brings it, else as stored, else of the table."""
    if path == USER_ID:
        return [brought.user_id]
    if path == ITEM_ID:
        return brought.item_ids
    head, _, field = path.partition(".")
    if head == Scope.CONTEXT:
        return _brought(path, [None], *_of_request(brought))
    table = looked[head]
    at = table.reads.parts.index(field)
    known = [view.parts[at] for view in table.views]
    if table.reads.per_request:
        return _brought(path, known, *_of_request(brought))
    return _brought(path, known, (Scope.ITEM, brought.inline))


def _of_request(brought: Brought) -> Iterable[tuple[Scope, Mapping[int, Fields]]]:
    return (Scope.USER, {0: brought.user}), (Scope.CONTEXT, {0: brought.context})


def _brought(
    path: str, known: list[str | None], *given: tuple[Scope, Mapping[int, Fields]]
) -> list[str | None]:
    """Texts ``[n]`` of a path with what a request brings by position in their place.

    As the encoder reads it: a bare name is a field of the scope that brings it, and of two the last holds.
    """
    for scope, by_position in given:
        names = {path, path.removeprefix(f"{scope}.")}
        for position, fields in by_position.items():
            for name, value in fields.items():
                if name in names:
                    known[position] = part_text(value)
    return known


def _laid_under(brought: Brought, telling: Iterable[tuple[_Looked, int]]) -> Brought:
    """The request over what the tables add to it, each at the position of a candidate where it has many."""
    user: dict[str, Value] = {}
    context: dict[str, Value] = {}
    inline: dict[int, dict[str, Value]] = defaultdict(dict)
    for table, at in telling:
        adds = table.views[at].adds
        if table.reads.scope is Scope.USER:
            user |= adds
        elif table.reads.per_request:
            context |= adds
        elif adds:
            inline[at] |= adds
    return brought.over(user, context, inline) if user or context or inline else brought
