"""Stores that a test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from service.bundle.columns import Value
from service.errors import StoreFailed
from service.features.memory import MemoryFeatureStore
from service.features.redis import RedisOptions
from service.features.store import Changed, Hears, Row, RowKey, State

PATIENT = RedisOptions(timeout_s=10, connect_timeout_s=10)
"""For what must not fail, however busy the machine is."""
NOW_MS = 1_900_000_000_000


class HeldStore:
    """A memory store that notes every fetch, holds it until it may go on, and fails where it is told to."""

    name: str = "held"

    def __init__(self, rows: Mapping[RowKey, Mapping[str, Value]] | None = None) -> None:
        self.inner = MemoryFeatureStore()
        self.rows: dict[RowKey, Row | None] = {key: Row(1, fields) for key, fields in (rows or {}).items()}
        self.fetches: list[list[RowKey]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.failing = False
        self.breaks_at: RowKey | None = None
        self.follow_breaks = False
        self.brings = True

    @property
    def state(self) -> State:
        """Whatever it says, it never stops being asked."""
        return "ok"

    @property
    def empty(self) -> bool:
        """Never certain."""
        return False

    async def fetch(self, keys: Sequence[RowKey]) -> Mapping[RowKey, Row | None]:
        """The rows as of the call, once it may go on."""
        self.fetches.append(list(keys))
        found = {key: self.rows[key] for key in keys if key in self.rows}
        await self.free.wait()
        if self.failing:
            raise StoreFailed(self.name, "timeout", "fails on purpose")
        if self.breaks_at in keys:
            raise ValueError("breaks on purpose, as no store should")
        return found

    async def put(self, rows: Mapping[RowKey, Row]) -> int:
        """Write rows, once it may go on."""
        await self.free.wait()
        if self.failing:
            raise StoreFailed(self.name, "timeout", "fails on purpose")
        self.rows |= rows
        return await self.inner.put(rows)

    async def now_ms(self) -> int:
        """Always the same."""
        return NOW_MS

    async def follow(self, changed: Changed, hears: Hears) -> None:
        """Tell of what was put; the rows come along unless they are not to."""
        if self.follow_breaks:
            raise ValueError("breaks on purpose, as no store should")
        await self.inner.follow(lambda keys, rows: changed(keys, rows if self.brings else {}), hears)

    async def close(self) -> None:
        """Nothing to let go of."""
