"""What is known of a request's user and candidates beyond what it brings and what its version's tables hold.

The order is: request, near cache, store, the bundle's table, default. This puts what the store says, where it
differs from the table, beneath what the request brings; the encoder puts both over the table. A `match` that
goes from the ids of a history to another value of theirs uses the version's table alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import cast
from weakref import WeakKeyDictionary

from service.bundle.columns import Value
from service.bundle.encoder import Encoded, Encoder
from service.bundle.schema import ITEM_ID, USER_ID, Scope
from service.features.items import Item, Items
from service.features.near import Entry, NearCache
from service.features.reads import TableReads, table_reads
from service.features.store import RowKey
from service.features.views import View, part_text, views
from service.telemetry import Telemetry

Fields = Mapping[str, Value]
Found = dict[RowKey, Entry]

MOST_VERSIONS = 8
"""whose views a cached row keeps"""
MOST_ITEMS = 50_000
"""of a version that are kept put together"""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a request brings.

    Attributes:
        user_id: None where there is none.
        user: fields of the user's, by name or path.
        context: fields of the context's, by name or path.
        item_ids: the ``N`` candidates.
        inline: fields of single candidates, by position.
    """

    user_id: str | None
    user: Fields
    context: Fields
    item_ids: Sequence[str]
    inline: Mapping[int, Fields]

    def only(self, positions: Sequence[int]) -> Brought:
        """The request for some of its candidates."""
        inline = {place: self.inline[at] for place, at in enumerate(positions) if at in self.inline}
        return replace(self, item_ids=[self.item_ids[at] for at in positions], inline=inline)

    def encode(self, encoder: Encoder) -> Encoded:
        """As the encoder sees it. Raises FeatureError for a value that it cannot read."""
        return encoder.request(self.user_id, self.user, self.context, self.item_ids, self.inline)


@dataclass(frozen=True, slots=True)
class _Looked:
    """One table, looked up: a view a candidate, or one for all."""

    reads: TableReads
    views: Sequence[View]


Looked = dict[str, _Looked]
"""by the name of the table"""


class _Version:
    """What a version reads: of the request, of each item alone, and of both together; and its items."""

    def __init__(self, encoder: Encoder, near: NearCache) -> None:
        reads = table_reads(encoder.schema, encoder.attributes)
        self.of_request = [table for table in reads if table.per_request]
        self.of_item = [table for table in reads if table.scope is Scope.ITEM]
        self.of_both = [table for table in reads if table.scope is Scope.CROSS]
        self.items = Items(near, MOST_ITEMS)

    def rows(self, brought: Brought) -> int:
        """How many rows a request needs, some of them perhaps more than once."""
        return len(self.of_request) + (len(self.of_item) + len(self.of_both)) * len(brought.item_ids)


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks rows up for one version, near and among those just fetched; and collects what is missing.

    What is missing is taken for not stored, so that the keys which follow from it are known at once.
    """

    encoder: Encoder
    near: NearCache
    fetched: Found
    missing: Found = field(default_factory=dict)

    def look(self, reads: TableReads, brought: Brought, looked: Looked) -> Sequence[Entry | None]:
        """Look a table up, given those that its key is made of; the entries ``[n]`` behind the views."""
        keys = _keys(reads, brought, looked)
        entries = self.near.held(keys)
        if None in entries:
            for at, key in enumerate(keys):
                if entries[at] is None and key is not None:
                    found = self.fetched.get(key) or self.missing.setdefault(key, Entry(None, True, 0.0))
                    entries[at] = found
        looked[reads.name] = _Looked(reads, _views(self.encoder, reads, keys, entries))
        return entries

    def items(self, version: _Version, brought: Brought) -> list[Item]:
        """The candidates ``[N]``: as they were put together before, else now."""
        found = version.items.held(brought.item_ids, but=brought.inline)
        if rest := [at for at, item in enumerate(found) if item is None]:
            looked, some = Looked(), brought.only(rest)
            entries = [self.look(reads, some, looked) for reads in version.of_item]
            tables = [table.views for table in looked.values()]
            for at, rows, made in zip(
                rest, zip(*entries, strict=True), zip(*tables, strict=True), strict=True
            ):
                until = min(entry.until for entry in rows if entry is not None)
                found[at] = item = Item(made, all(view.silent for view in made), until)
                if at not in brought.inline:
                    version.items.keep(brought.item_ids[at], item)
        return cast(list[Item], found)


class Lookup:
    """Completes requests from a near cache and the store behind it."""

    def __init__(self, near: NearCache, telemetry: Telemetry) -> None:
        self._near, self._telemetry = near, telemetry
        self._versions: WeakKeyDictionary[Encoder, _Version] = WeakKeyDictionary()

    async def complete(self, encoder: Encoder, brought: Brought, within_s: float) -> tuple[Brought, bool]:
        """The request with all that is known, and whether the store could tell all that it was asked.

        One round trip for all rows that are not near; another only where a row turned out to make the key
        of a further one. Where nothing is missing, nothing is awaited.

        Args:
            encoder: of the version.
            brought: as it came.
            within_s: seconds that the store has.
        """
        clock = asyncio.get_running_loop().time
        until, fetched = clock() + within_s, Found()
        looked, missing = self._look(encoder, brought, fetched)
        self._telemetry.near(self._versions[encoder].rows(brought) - len(missing), len(missing))
        sound = True
        while missing:
            found = await self._near.fetch(list(missing), max(0.0, until - clock()))
            sound = sound and len(found) == len(missing)
            fetched |= missing | found
            looked, missing = self._look(encoder, brought, fetched)
        telling = [(table, at) for table in looked for at, view in enumerate(table.views) if not view.silent]
        sound = sound and all(table.views[at].sound for table, at in telling)
        return _laid_under(brought, telling), sound

    def _look(self, encoder: Encoder, brought: Brought, fetched: Found) -> tuple[list[_Looked], Found]:
        """Every table that tells or leads to another; and the rows that are missing, as if not stored."""
        if encoder not in self._versions:
            self._versions[encoder] = _Version(encoder, self._near)
        version, looked = self._versions[encoder], Looked()
        search = _Search(encoder, self._near, fetched)
        for reads in version.of_request:
            search.look(reads, brought, looked)
        if version.of_item:
            items = search.items(version, brought)
            if version.of_both or not all(item.silent for item in items):
                for place, reads in enumerate(version.of_item):
                    looked[reads.name] = _Looked(reads, [item.views[place] for item in items])
        for reads in version.of_both:
            search.look(reads, brought, looked)
        return list(looked.values()), search.missing


def _views(
    encoder: Encoder, reads: TableReads, keys: Sequence[RowKey | None], entries: Sequence[Entry | None]
) -> list[View]:
    """What the entries ``[n]`` are to a version; None is the entry of no key."""
    found = [entry.views.get(reads) if entry else None for entry in entries]
    if None not in found:
        return cast(list[View], found)
    fresh = {
        key: entry
        for key, entry, view in zip(keys, entries, found, strict=True)
        if key is not None and entry is not None and view is None
    }
    made = views(encoder, reads, list(fresh), [entry.row for entry in fresh.values()]) if fresh else []
    for entry, view in zip(fresh.values(), made, strict=True):
        if len(entry.views) >= MOST_VERSIONS:
            entry.views.clear()
        entry.views[reads] = view if entry.sound else replace(view, sound=False)
    nobody = View({}, (None,) * len(reads.parts), True)
    return [nobody if entry is None else entry.views[reads] for entry in entries]


def _keys(reads: TableReads, brought: Brought, looked: Looked) -> list[RowKey | None]:
    """A table's keys, one for the request or one a candidate; None where a part is missing."""
    parts = [_part(path, brought, looked) for path in reads.key]
    if not reads.per_request:
        n = len(brought.item_ids)
        parts = [part if len(part) == n else [*part] * n for part in parts]
    keys = zip(repeat(reads.name), *parts)
    if any(None in part for part in parts):
        return [None if None in key else key for key in keys]
    return list(keys)


def _part(path: str, brought: Brought, looked: Looked) -> Sequence[str | None]:
    """A part of a key, ``[1]`` or ``[N]``: as the request brings it, else as stored, else of the table."""
    if path == USER_ID:
        return [brought.user_id]
    if path == ITEM_ID:
        return brought.item_ids
    head, _, field = path.partition(".")
    if head == Scope.CONTEXT:
        return _brought(path, [None], {0: brought.user}, {0: brought.context})
    table = looked[head]
    at = table.reads.parts.index(field)
    known = [view.parts[at] for view in table.views]
    if table.reads.per_request:
        return _brought(path, known, {0: brought.user}, {0: brought.context})
    return _brought(path, known, brought.inline)


def _brought(path: str, known: list[str | None], *given: Mapping[int, Fields]) -> list[str | None]:
    """Texts ``[n]`` of a path with what a request brings by position in their place, the last one given."""
    head, _, field = path.partition(".")
    names = {path, field} if head in (Scope.USER, Scope.CONTEXT, Scope.ITEM) else {path}
    for by_position in given:
        for position, fields in by_position.items():
            for name in names & fields.keys():
                known[position] = part_text(fields[name])
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
    if not (user or context or inline):
        return brought
    # A field that comes by name and by path is read as it comes last, and the context's after the user's.
    beneath = {path: value for path, value in context.items() if path not in brought.user}
    merged = {at: {**adds, **brought.inline.get(at, {})} for at, adds in inline.items()}
    return replace(
        brought,
        user={**user, **brought.user},
        context={**beneath, **brought.context},
        inline={**brought.inline, **merged},
    )
