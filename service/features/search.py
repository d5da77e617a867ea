"""Looks the rows of one request up: which keys it asks for, what is near of them, and what is missing.

A table's key may be made of another table's fields, and so they are looked up in an order; a part of a key is
what the request brings, else what is stored, else what the version's table says.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import cast

from service.bundle.encoder import Encoder
from service.bundle.schema import ITEM_ID, USER_ID, Scope
from service.features.brought import Brought, Fields
from service.features.known import PartKey, Standing
from service.features.near import Entry, NearCache
from service.features.reads import TableReads
from service.features.store import RowKey
from service.features.views import View, part_text, views

Found = dict[RowKey, Entry]

VIEWED_AT_ONCE = 100
"""rows that are made views of before others get their turn: some milliseconds"""
NOTHING = View({}, (), True)
"""what is nothing to add"""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """One table, looked up: a view a candidate, or one for all."""

    reads: TableReads
    views: Sequence[View]
    at: Sequence[int]
    """positions of those that were looked up: what is known beside them tells nothing more"""

    def telling(self) -> Sequence[int]:
        """The positions of the views that tell anything."""
        return [at for at in self.at if not self.views[at].silent]


Looked = dict[str, LookedUp]
"""by the name of the table"""


@dataclass(slots=True)
class Search:
    """Looks rows up for one version, near and among those just fetched; and collects what is missing.

    What is missing is taken for what it last was, or for not stored: the keys which follow from it are known
    at once.
    """

    encoder: Encoder
    near: NearCache
    standing: Standing
    fetched: Found
    looked: Looked = field(default_factory=dict)
    of_items: dict[str, tuple[Sequence[PartKey], Sequence[Entry | None]]] = field(default_factory=dict)
    """by table, the keys of the items that are looked up, and what was found of each"""
    missing: Found = field(default_factory=dict)
    hits: int = 0

    async def look(self, reads: TableReads, brought: Brought) -> None:
        """Look a table up, given those that its key is made of."""
        if reads.scope is Scope.ITEM:
            await self._look_items(reads, brought)
            return
        views = await self._views(reads, _keys(reads, brought, self.looked))
        self.looked[reads.name] = LookedUp(reads, views, range(len(views)))

    async def _look_items(self, reads: TableReads, brought: Brought) -> None:
        """Look up what follows from the item, for the items that are not known."""
        n, unknown = len(brought.item_ids), self.standing.unknown
        every = cast(list[View], self.standing.views.get(reads.name) or [NOTHING] * n)
        self.hits += n - len(unknown)
        if unknown:
            keys = _keys(reads, brought, self.looked)
            keys = keys if len(unknown) == n else [keys[at] for at in unknown]
            entries = [self._entry(key) for key in keys]
            made = await self._made(reads, dict(zip(entries, keys, strict=True)))
            for at, entry in zip(unknown, entries, strict=True):
                every[at] = made[entry]
            self.of_items[reads.name] = keys, entries
        self.looked[reads.name] = LookedUp(reads, every, unknown)

    async def _views(self, reads: TableReads, keys: Sequence[PartKey]) -> Sequence[View]:
        """A view a key."""
        found = self.near.views(keys, reads)
        gaps = [at for at, view in enumerate(found) if view is None]
        self.hits += len(found) - len(gaps)
        if gaps:
            entries = {at: self._entry(keys[at]) for at in gaps}
            made = await self._made(reads, {entry: keys[at] for at, entry in entries.items()})
            for at, entry in entries.items():
                found[at] = made[entry]
        return cast(list[View], found)

    def _entry(self, key: PartKey) -> Entry | None:
        """What is known of a key; None where it lacks a part, and so is none."""
        if entry := self.near.held(key):
            self.hits += 1
            return entry
        if None in key:
            return None
        known = cast(RowKey, key)
        if entry := self.fetched.get(known) or self.missing.get(known):
            return entry
        self.missing[known] = entry = self.near.stale(known) or Entry(None, True, -math.inf)
        return entry

    async def _made(
        self, reads: TableReads, entries: Mapping[Entry | None, PartKey]
    ) -> Mapping[Entry | None, View]:
        """What each entry, or none, is to the version; made only once, and some at a time."""
        made: dict[Entry | None, View] = {None: View({}, (None,) * len(reads.parts), True)}
        made |= {entry: view for entry in entries if entry and (view := entry.seen(reads))}
        fresh = [entry for entry in entries if entry and entry not in made]
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
