"""The near cache: rows of the store that this worker has seen lately, and that there are none of a key.

Bounded: the oldest goes first. Each entry lives for its time to live, or until its row is said to have
changed; what says so may bring the new one. While nothing is heard of changes it is asked for again after a
second, and serves on where there is no answer. Requests that lack the same row at once share one fetch: none
of them owns it, so one that leaves takes nothing from the others, and what it asked for is there for the
next.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from service.errors import StoreFailed
from service.features.faults import Faults
from service.features.reads import TableReads
from service.features.store import FeatureStore, Row, RowKey
from service.features.views import View
from service.telemetry import Telemetry

MOST_VERSIONS = 8
"""whose views a row keeps"""
NO_ROWS: Mapping[RowKey, Row] = MappingProxyType({})
UNHEARD_S = 1.0
"""How long an entry is fresh while nothing is heard of changes."""


@dataclass(slots=True, eq=False)
class Entry:
    """What the store said of a key.

    Attributes:
        row: None where there is none.
        sound: was what the store holds a row? If not it counts as none.
        since: when it was asked for, or told of, on the cache's clock.
        views: what the row is to each version that has read it. They end with the entry.
        reads: of the version that has read it last.
        view: what it is to that one, at hand: a look into `views` costs as much as all the rest.
    """

    row: Row | None
    sound: bool
    since: float
    views: dict[TableReads, View] = field(default_factory=dict)
    reads: TableReads | None = None
    view: View | None = None

    @property
    def stamp_ms(self) -> int:
        """When the row was written, in milliseconds since the epoch; of no row, long ago."""
        return self.row.stamp_ms if self.row else 0

    def seen(self, reads: TableReads) -> View | None:
        """What the row is to a version; None where it has yet to be made."""
        if self.reads is not reads and (view := self.views.get(reads)):
            self.reads, self.view = reads, view
        return self.view if self.reads is reads else None

    def see(self, reads: TableReads, view: View) -> None:
        """Keep what the row is to a version."""
        if len(self.views) >= MOST_VERSIONS:
            self.views.clear()
        self.views[reads] = self.view = view
        self.reads = reads


class NearCache:
    """Entries by key, in front of a store; belongs to one event loop.

    Args:
        store: asked for what is not here.
        entries: most that are kept.
        ttl_s: how long each is.
        telemetry: told of fetches and failures.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        entries: int,
        ttl_s: float,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._most, self._ttl_s = store, entries, ttl_s
        self._fresh_s = min(ttl_s, UNHEARD_S)
        self._telemetry, self.clock = telemetry, clock
        self._faults = Faults(store.name, clock)
        self._entries: OrderedDict[tuple[str | None, ...], Entry] = OrderedDict()
        self._flights: dict[RowKey, asyncio.Task[dict[RowKey, Entry]]] = {}
        self._tasks: set[asyncio.Task[dict[RowKey, Entry]]] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def views(self, keys: Iterable[tuple[str | None, ...]], reads: TableReads) -> list[View | None]:
        """What the fresh entries ``[n]`` of some keys are to a version; None where one has yet to be made."""
        oldest, get = self.clock() - self._fresh_s, self._entries.get
        return [
            (entry.view if entry.reads is reads else entry.seen(reads))
            if entry and entry.since > oldest
            else None
            for entry in map(get, keys)
        ]

    def entries(self, keys: Iterable[tuple[str | None, ...]]) -> list[Entry | None]:
        """The fresh entries of some keys ``[n]``."""
        oldest, get = self.clock() - self._fresh_s, self._entries.get
        return [entry if entry and entry.since > oldest else None for entry in map(get, keys)]

    def stale(self, key: RowKey) -> Entry | None:
        """The entry of a key, though its row may have changed unheard of; None after its time to live."""
        entry = self._entries.get(key)
        return entry if entry and entry.since > self.clock() - self._ttl_s else None

    def until(self, keys: Sequence[tuple[str | None, ...]], entries: Sequence[Entry | None]) -> list[float]:
        """When what was found of some keys ``[n]`` will not be fresh any more; -inf where it has changed.

        There is no row of a key that lacks a part, and so none that could change.
        """
        fresh_s, get = self._fresh_s, self._entries.get
        return [
            math.inf if entry is None else entry.since + fresh_s if get(key) is entry else -math.inf
            for key, entry in zip(keys, entries, strict=True)
        ]

    def silent_until(self, keys: Sequence[tuple[str | None, ...]], views: Sequence[View]) -> list[float]:
        """When what some keys ``[n]`` are to a version is not fresh any more; -inf where that tells anything.

        And where the row has changed since it was viewed.
        """
        fresh_s, get = self._fresh_s, self._entries.get
        return [
            entry.since + fresh_s if view.silent and (entry := get(key)) and entry.view is view else -math.inf
            for key, view in zip(keys, views, strict=True)
        ]

    async def fetch(self, keys: Sequence[RowKey], within_s: float) -> dict[RowKey, Entry]:
        """Entries from the store, by one round trip for all that nobody else is fetching already.

        A key that the store did not answer for, or not in time, is left out.
        """
        if own := [key for key in keys if key not in self._flights]:
            flight = asyncio.create_task(self._fly(own), name="fetch")
            self._tasks.add(flight)
            flight.add_done_callback(self._tasks.discard)
            self._flights |= dict.fromkeys(own, flight)
        flights = {self._flights[key] for key in keys}
        done, late = await asyncio.wait(flights, timeout=within_s)
        if late:
            self._telemetry.store_failed(self._store.name, "late")
        arrived = {key: entry for flight in done for key, entry in flight.result().items()}
        return {key: arrived[key] for key in keys if key in arrived}

    def tell(self, keys: Sequence[RowKey], views: Sequence[View]) -> None:
        """Count rows ``[n]`` of which a version cannot read all, and tell the log which field, and why."""
        for key, view in zip(keys, views, strict=True):
            if view.faults:
                self._telemetry.store_failed(self._store.name, "unreadable")
                self._faults.tell(key, "; ".join(f"{name}: {reason}" for name, reason in view.faults))

    def drop(self, keys: Collection[RowKey] | None, rows: Mapping[RowKey, Row] = NO_ROWS) -> None:
        """Forget some entries, all of them for None; what is being fetched now of these is not kept.

        One that is near has its row among `rows` from now on, unless the one that it has is a later one.
        """
        if keys is None:
            self._entries.clear()
            self._flights.clear()
            return
        since, entries = self.clock(), self._entries
        for key in keys:
            entry, row = entries.pop(key, None), rows.get(key)
            if entry and row and entry.stamp_ms <= row.stamp_ms:
                entries[key] = Entry(row, True, since)
        for key in keys if self._flights else ():
            self._flights.pop(key, None)

    def hears(self, whether: bool) -> None:
        """Changes are told of from now on, and what changed before may have been missed; or no longer."""
        self._fresh_s = self._ttl_s if whether else min(self._ttl_s, UNHEARD_S)
        if whether:
            self.drop(None)

    async def close(self) -> None:
        """End what is being fetched."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fly(self, keys: Sequence[RowKey]) -> dict[RowKey, Entry]:
        """Fetch, and keep what has not changed meanwhile. Empty where the store failed."""
        started, since = time.perf_counter(), self.clock()
        entries: dict[RowKey, Entry] = {}
        try:
            rows = await self._store.fetch(keys)
            corrupt = {key for key, row in rows.items() if row is None}
            entries = {key: Entry(rows.get(key), key not in corrupt, since) for key in keys}
            self._telemetry.fetched(time.perf_counter() - started)
            self._telemetry.store_failed(self._store.name, "corrupt", len(corrupt))
        except StoreFailed as failure:
            self._telemetry.store_failed(failure.store, failure.kind)
        finally:
            current = asyncio.current_task()
            for key in keys:
                if self._flights.get(key) is current:
                    del self._flights[key]
                    if key in entries:
                        self._keep(key, entries[key])
        return entries

    def _keep(self, key: RowKey, entry: Entry) -> None:
        self._entries.pop(key, None)
        while len(self._entries) >= self._most:
            self._entries.popitem(last=False)
        self._entries[key] = entry
