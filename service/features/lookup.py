"""What is known of a request's user and candidates beyond what it brings and what its version's tables hold.

The order is: request, near cache, store, the bundle's table, default. This puts what the store says, where it
differs from the table, beneath what the request brings; the encoder puts both over the table. A `match` that
goes from the ids of a history to another value of theirs uses the version's table alone.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.bundle.given import Fields, of_candidates
from service.bundle.rows import Items
from service.bundle.schema import Scope
from service.features.brought import Brought
from service.features.known import KnownItems, Learned, Standing
from service.features.near import NO_ROWS, NearCache
from service.features.reads import TableReads, table_reads
from service.features.renewal import Renewed, renew, told_nobody
from service.features.search import VIEWED_AT_ONCE, Found, Search
from service.features.silent import Silent
from service.features.store import Row, RowKey
from service.features.views import View
from service.telemetry import Telemetry

MOST_ITEMS = 50_000
MOST_DUE = 2_000
"""items a version that are looked up anew behind the requests; the next request looks others up itself"""


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version reads, what is known of its items, and which of these are to be looked up anew."""

    reads: tuple[TableReads, ...]
    items: KnownItems
    silent: Mapping[str, Silent]
    due: set[int]


class Lookup:
    """Completes requests from what is known of a version's items, a near cache, and the store behind it.

    Args:
        near: before the store.
        telemetry: told of what was near.
        rows: most items a version that are kept as the store has them, encoded; and what `Silent` may note of
            each of its tables, in rows that may be near.
        renewed: told of items that were looked up anew behind the requests.
    """

    def __init__(
        self,
        near: NearCache,
        telemetry: Telemetry,
        rows: int = MOST_ITEMS,
        renewed: Renewed = told_nobody,
    ) -> None:
        self._near, self._telemetry, self._most_rows, self._renewed = near, telemetry, rows, renewed
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
        version = self._version(encoder)
        standing = version.items.standing(encoder, brought.item_ids, brought.inline.keys())
        search, sound = await self._search(encoder, version, standing, brought, within_s)
        for name, beside in search.beside.items():
            until = self._near.silent_until(beside.keys, beside.views)
            version.silent[name].learn(beside.others, beside.rows, until)
        learned, revised = await self._learn(encoder, version.items, search, brought)
        telling = [
            (table.reads, at, view)
            for table in search.looked.values()
            for at, view in table.telling()
            if table.reads.scope is not Scope.ITEM or at not in learned
        ]
        sound = sound and all(view.sound for *_, view in telling)
        items = standing.items.and_revised(revised) if revised else standing.items
        return _laid_under(replace(brought, items=items), telling), sound

    def reads(self, encoder: Encoder) -> tuple[TableReads, ...]:
        """What a version reads of its tables."""
        return self._version(encoder).reads

    def drop(
        self, keys: Collection[RowKey] | None, after_s: float = 0.0, rows: Mapping[RowKey, Row] = NO_ROWS
    ) -> bool:
        """Forget some rows, all of them for None: they have changed, or may have. New ones may come along.

        Items that are known may stay so for some seconds. Returns whether any are to be looked up anew.
        """
        self._near.drop(keys, rows)
        for encoder, version in self._versions.items():
            for silent in version.silent.values():
                silent.forget(encoder, keys)
            known = version.items.forget(encoder, keys, after_s).tolist()
            version.due.update(known[: max(0, MOST_DUE - len(version.due))])
        return any(version.due for version in self._versions.values())

    def renew(self, within_s: float) -> list[Coroutine[None, None, None]]:
        """Calls that look the items that have changed up anew, so that no request has to.

        One a version, to be run at once: none holds on to a version while it waits for another's rows, and
        the failure of one is not the others'.
        """
        return [
            self._renew(encoder, version, within_s)
            for encoder, version in self._versions.items()
            if version.due
        ]

    def hears(self, whether: bool) -> None:
        """Changes are told of from now on, or no longer: see `NearCache.hears`."""
        self._near.hears(whether)
        for encoder, version in self._versions.items():
            version.items.forget(encoder, None)
            for silent in version.silent.values():
                silent.forget(encoder, None)

    async def _renew(self, encoder: Encoder, version: _Version, within_s: float) -> None:
        rows = np.array(sorted(version.due), np.int32)
        version.due.clear()
        await renew(encoder, self._near, version.items, rows, within_s, self._renewed)

    def _version(self, encoder: Encoder) -> _Version:
        if encoder not in self._versions:
            reads = table_reads(encoder.schema, encoder.attributes)
            of_items = [table for table in reads if table.scope is Scope.ITEM]
            known = KnownItems(encoder, of_items, self._most_rows, self._near.clock)
            silent = {
                table.name: Silent(encoder, table, self._most_rows) for table in reads if table.beside_items
            }
            self._versions[encoder] = _Version(reads, known, silent, set())
        return self._versions[encoder]

    async def _search(
        self, encoder: Encoder, version: _Version, standing: Standing, brought: Brought, within_s: float
    ) -> tuple[Search, bool]:
        """The tables, looked up; and whether the store could tell all that it was asked."""
        clock = asyncio.get_running_loop().time
        until, fetched, sound = clock() + within_s, Found(), True
        search = Search(encoder, self._near, standing, fetched, version.silent)
        await search.look(version.reads, brought)
        self._telemetry.near(search.hits, len(search.missing))
        while missing := search.missing:
            found = await self._near.fetch(list(missing), max(0.0, until - clock()))
            sound = sound and len(found) == len(missing)
            fetched |= missing | found
            search = search.again()
            await search.look(version.reads, brought)
        return search, sound

    async def _learn(
        self, encoder: Encoder, items: KnownItems, search: Search, brought: Brought
    ) -> tuple[set[int], list[Items]]:
        """Keep what was found of items of the catalogue, but of those that the request brings fields of.

        The positions of those that are known by now, and the items themselves as they stand.
        """
        learned, revised = set[int](), list[Items]()
        unknown = len(search.standing.unknown) if search.of_items else 0
        for start in range(0, unknown, VIEWED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            some = _learnable(self._near, items, search, brought, start)
            if len(some.at):
                revised.append(items.learn(encoder, some))
                learned.update(some.at.tolist())
        return learned, revised


def _learnable(near: NearCache, items: KnownItems, search: Search, brought: Brought, start: int) -> Learned:
    """What was found of some items of the catalogue, as far as it is sound and has not changed since."""
    some, now = slice(start, start + VIEWED_AT_ONCE), near.clock()
    at = search.standing.unknown[some]
    rows = search.standing.items.row[at]
    of_items = [search.of_items[reads.name] for reads in items.tables]
    looked = [search.looked[reads.name] for reads in items.tables]
    until = np.min([near.until(keys[some], entries[some]) for keys, entries in of_items], axis=0)
    views = [[each.views[one] for one in each.which[at].tolist()] for each in looked]
    sound = np.all([[view.sound for view in seen] for seen in views], axis=0)
    bare = np.array([one not in brought.inline for one in at.tolist()], bool)
    kept = np.flatnonzero((rows > 0) & (until > now) & sound & bare)
    nths, keys, parts = kept.tolist(), {}, {}
    for reads, (of_table, _), seen in zip(items.tables, of_items, views, strict=True):
        keys[reads.name] = [of_table[start + nth] for nth in nths]
        for part, name in enumerate(reads.parts):
            parts[reads.paths[name]] = [seen[nth].parts[part] for nth in nths]
    paths = {path: path for reads in items.tables for path in reads.paths.values()}
    adds = {one: _added([seen[nth] for seen in views]) for one, nth in enumerate(nths)}
    return Learned(at[kept], rows[kept], until[kept], keys, parts, of_candidates(adds, paths))


def _added(views: Sequence[View]) -> Fields:
    """What the views of all tables add."""
    return views[0].adds if len(views) == 1 else {path: v for view in views for path, v in view.adds.items()}


def _laid_under(brought: Brought, telling: Iterable[tuple[TableReads, int, View]]) -> Brought:
    """The request over what the tables add to it, each at the position of a candidate where it has many."""
    user: dict[str, Value] = {}
    context: dict[str, Value] = {}
    inline: dict[int, dict[str, Value]] = defaultdict(dict)
    for reads, at, view in telling:
        if reads.scope is Scope.USER:
            user |= view.adds
        elif reads.per_request:
            context |= view.adds
        elif view.adds:
            inline[at] |= view.adds
    return brought.over(user, context, inline) if user or context or inline else brought
