"""The feature store as the service has it: a store, the near cache before it, and what follows from both.

With a store that certainly holds nothing, as that of a service without Redis, a request costs nothing here.
After a notice an item that is known is ranked as it was, for half a second at most and unmarked, while it is
looked up anew behind the requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.errors import Forbidden
from service.features.brought import Brought
from service.features.lookup import Lookup
from service.features.near import NO_ROWS, NearCache
from service.features.reads import TableReads
from service.features.renewal import Renewed, told_nobody
from service.features.store import FeatureStore, Row, RowKey
from service.tasks import Tasks
from service.telemetry import Telemetry

SERVES_ON_S = 0.5
"""How long an item that has changed is ranked as it was, unless it has been looked up anew by then."""
GATHERED_S = 0.02
"""Changes of so long are looked up at once."""


@dataclass(frozen=True, slots=True)
class FeatureOptions:
    """How rows are looked up.

    Attributes:
        timeout_s: most that a request waits for the store, and never more than half of what it has left.
        ttl_s: how long a row is near.
        near_rows: most rows that are near; 128 bytes each go beside them to each table by item and request.
            Of a request that lacks more of them, some items are looked up each time.
    """

    timeout_s: float = 0.05
    ttl_s: float = 60.0
    near_rows: int = 50_000


@dataclass(frozen=True, slots=True)
class Written:
    """What became of rows that were put.

    Attributes:
        rows: how many were written; where there was a later one, it stays.
        stamp_ms: the time they were written at, by the store's clock, in milliseconds since the epoch.
    """

    rows: int
    stamp_ms: int


class Features:
    """Completes requests with rows of the store, and puts rows into it; belongs to one event loop.

    Args:
        store: of the rows.
        options: how rows are looked up.
        telemetry: told of what is near, and of every failure.
        shared: do all workers read this store? If not, it takes no rows.
        alone: is there no other worker? What is put then holds at once, as its caller can tell whom it asks.
        renewed: told of items that were looked up anew behind the requests.
    """

    def __init__(
        self,
        store: FeatureStore,
        options: FeatureOptions,
        telemetry: Telemetry,
        *,
        shared: bool = True,
        alone: bool = True,
        renewed: Renewed = told_nobody,
    ) -> None:
        self.store = store
        self._timeout_s, self._shared, self._alone = options.timeout_s, shared, alone
        self._near = NearCache(store, entries=options.near_rows, ttl_s=options.ttl_s, telemetry=telemetry)
        self._lookup = Lookup(self._near, telemetry, options.near_rows, renewed)
        self._tasks = Tasks("changes of rows could not be followed, or not be looked up")
        self._renewing = False

    async def open(self) -> None:
        """Begin to hear of changes."""
        self._tasks.start(self.store.follow(self._heard, self._lookup.hears))

    async def close(self) -> None:
        """End what is under way, and let go of the store."""
        await self._tasks.end()
        await self._near.close()
        await self.store.close()

    async def complete(
        self, encoder: Encoder, brought: Brought, deadline: float
    ) -> tuple[Brought, tuple[str, ...]]:
        """A request with what the store adds to it; and the stores that could not tell all.

        Args:
            encoder: of the version that ranks it.
            brought: as it came.
            deadline: its own, on the event loop's clock.
        """
        if self.store.empty:
            return brought, ()
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        completed, sound = await self._lookup.complete(encoder, brought, min(self._timeout_s, left_s / 2))
        return completed, () if sound else (self.store.name,)

    def reads(self, encoder: Encoder) -> tuple[TableReads, ...]:
        """What a version reads of its tables."""
        return self._lookup.reads(encoder)

    def forget(self) -> None:
        """Forget every row that is near; what is asked for next comes from the store."""
        self._lookup.drop(None)

    async def put(self, rows: Mapping[RowKey, Mapping[str, Value]]) -> Written:
        """Write rows as of now. A lone worker ranks with them at once, each of several within a second.

        Raises:
            Forbidden: not all workers would read them.
            StoreFailed: it does not answer; some may have been written.
        """
        if not self._shared:
            raise Forbidden("this service's workers share no feature store; start it with --redis URL")
        stamp_ms = await self.store.now_ms()
        try:
            written = await self.store.put({key: Row(stamp_ms, fields) for key, fields in rows.items()})
        finally:
            if self._alone:
                self._drop(rows.keys())
        return Written(written, stamp_ms)

    def _heard(self, keys: Collection[RowKey] | None, rows: Mapping[RowKey, Row]) -> None:
        self._drop(keys, SERVES_ON_S, rows)

    def _drop(
        self, keys: Collection[RowKey] | None, after_s: float = 0.0, rows: Mapping[RowKey, Row] = NO_ROWS
    ) -> None:
        """Forget rows that have changed; items that are known by them are looked up behind the requests."""
        if self._lookup.drop(keys, after_s, rows) and not self._renewing:
            self._renewing = True
            self._tasks.start(self._renew())

    async def _renew(self) -> None:
        try:
            await asyncio.sleep(GATHERED_S)
        finally:
            self._renewing = False
        for call in self._lookup.renew(self._timeout_s):
            self._tasks.start(call)
