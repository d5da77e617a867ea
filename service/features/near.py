"""The near cache: rows of the store that this worker has seen lately, and that there are none of a key.

Bounded: the oldest goes first, but for one that was used, which is then the youngest. Each entry lives for
its time to live, or until its row is said to have changed. Requests that lack the same row at once share one
fetch: none of them owns it, so one that leaves takes nothing from the others, and what it asked for is there
for the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from service.errors import StoreFailed
from service.features.reads import TableReads
from service.features.store import FeatureStore, Row, RowKey
from service.features.views import View
from service.telemetry import Telemetry


@dataclass(slots=True, eq=False)
class Entry:
    """What the store said of a key.

    Attributes:
        row: None where there is none.
        sound: was what the store holds a row? If not it counts as none.
        until: when it is forgotten, on the cache's clock.
        views: what the row is to each version that has read it. They end with the entry.
        used: since it was the youngest.
    """

    row: Row | None
    sound: bool
    until: float
    views: dict[TableReads, View] = field(default_factory=dict)
    used: bool = False


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
        self._telemetry, self._clock = telemetry, clock
        self._entries: dict[RowKey, Entry] = {}
        self._flights: dict[RowKey, asyncio.Task[dict[RowKey, Entry]]] = {}
        self._tasks: set[asyncio.Task[dict[RowKey, Entry]]] = set()
        self.changes = 0
        """how often rows were said to have changed"""

    def __len__(self) -> int:
        return len(self._entries)

    def now(self) -> float:
        """The time on the clock that entries live by."""
        return self._clock()

    def held(self, keys: Sequence[RowKey | None]) -> list[Entry | None]:
        """The entries ``[n]`` of some keys; None for what is not here."""
        now = self.now()
        found: list[Entry | None] = list(map(self._entries.get, keys))  # type: ignore[arg-type]  # None is no key
        for at, entry in enumerate(found):
            if entry is not None:
                if entry.until > now:
                    entry.used = True
                else:
                    found[at] = None
        return found

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

    def drop(self, keys: Collection[RowKey] | None) -> None:
        """Forget some entries, all of them for None; what is being fetched now of these is not kept."""
        self.changes += 1
        if keys is None:
            self._entries.clear()
            self._flights.clear()
            return
        for key in keys:
            self._entries.pop(key, None)
            self._flights.pop(key, None)

    async def close(self) -> None:
        """End what is being fetched."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fly(self, keys: Sequence[RowKey]) -> dict[RowKey, Entry]:
        """Fetch, and keep what has not changed meanwhile. Empty where the store failed."""
        started = time.perf_counter()
        entries: dict[RowKey, Entry] = {}
        try:
            rows = await self._store.fetch(keys)
            corrupt = {key for key, row in rows.items() if row is None}
            until = self.now() + self._ttl_s
            entries = {key: Entry(rows.get(key), key not in corrupt, until) for key in keys}
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
            oldest = next(iter(self._entries))
            gone = self._entries.pop(oldest)
            if gone.used:
                gone.used = False
                self._entries[oldest] = gone
        self._entries[key] = entry
