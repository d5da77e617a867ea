"""What is known of a request's user and candidates beyond what it brings and what its version's tables hold.

The order is: request, near cache, store, the bundle's table, default. This puts what the store says, where it
differs from the table, beneath what the request brings; the encoder puts both over the table. A `match` that
goes from the ids of a history to another value of theirs uses the version's table alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.bundle.rows import Items
from service.bundle.schema import Scope
from service.features.brought import Brought
from service.features.known import KnownItems, Learned, Standing
from service.features.near import NearCache
from service.features.reads import TableReads, table_reads
from service.features.search import VIEWED_AT_ONCE, Found, LookedUp, Search
from service.features.store import RowKey
from service.telemetry import Telemetry

MOST_ITEMS = 50_000


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version reads, and what is known of its items."""

    reads: tuple[TableReads, ...]
    items: KnownItems


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
        learned, revised = await self._learn(encoder, version.items, search, brought, drops)
        telling = [
            (table, at)
            for table in search.looked.values()
            for at in table.telling()
            if table.reads.scope is not Scope.ITEM or at not in learned
        ]
        sound = sound and all(table.views[at].sound for table, at in telling)
        items = standing.items.and_revised(revised) if revised else standing.items
        return _laid_under(replace(brought, items=items), telling), sound

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
    ) -> Search:
        """Every table that the version reads, looked up."""
        search = Search(encoder, self._near, standing, fetched)
        for reads in version.reads:
            await search.look(reads, brought)
        return search

    async def _learn(
        self, encoder: Encoder, items: KnownItems, search: Search, brought: Brought, drops: int
    ) -> tuple[set[int], list[Items]]:
        """Keep what was found of items of the catalogue, but of those that the request brings fields of.

        The positions of those that are known by now, and the items themselves as they stand.
        """
        learned, revised = set[int](), list[Items]()
        found = list(_learnable(self._near, items, search, brought))
        for start in range(0, len(found), VIEWED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            if (
                drops != self._near.drops
            ):  # what was found may be old by now: told to this request, kept for none
                break
            some = found[start : start + VIEWED_AT_ONCE]
            revised.append(items.learn(encoder, some))
            learned.update(each.at for each in some)
        return learned, revised


def _learnable(near: NearCache, items: KnownItems, search: Search, brought: Brought) -> Iterator[Learned]:
    """What was found of items of the catalogue, as far as it is sound and fresh."""
    if not search.of_items:
        return
    rows, now = search.standing.items.row, near.clock()
    looked = [search.looked[reads.name].views for reads in items.tables]
    found = [search.of_items[reads.name] for reads in items.tables]
    for nth, at in enumerate(search.standing.unknown):
        row, views = int(rows[at]), tuple(each[at] for each in looked)
        # There is no row of a key that lacks a part, and so none that could change.
        until = min((near.until(entry) for _, entries in found if (entry := entries[nth])), default=math.inf)
        if row and at not in brought.inline and until > now and all(view.sound for view in views):
            yield Learned(at, row, until, tuple(keys[nth] for keys, _ in found), views)


def _laid_under(brought: Brought, telling: Iterable[tuple[LookedUp, int]]) -> Brought:
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
