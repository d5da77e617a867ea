"""A store in the memory of one worker: for tests, and for a service of one worker without Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from service.errors import StoreFailed
from service.features.store import Changed, Hears, Row, RowKey, State


class MemoryFeatureStore:
    """Rows in a dictionary. They end with the process.

    Args:
        most: rows that it takes.
    """

    name: str = "memory"

    def __init__(self, most: int = 1_000_000) -> None:
        self._most = most
        self._rows: dict[RowKey, Row] = {}
        self._followers: set[Changed] = set()

    @property
    def state(self) -> State:
        """It cannot fail."""
        return "ok"

    @property
    def empty(self) -> bool:
        """Was nothing ever put?"""
        return not self._rows

    async def fetch(self, keys: Sequence[RowKey]) -> Mapping[RowKey, Row | None]:
        """The rows that there are."""
        return {key: self._rows[key] for key in keys if key in self._rows}

    async def put(self, rows: Mapping[RowKey, Row]) -> int:
        """Write rows whole, unless a later one is there; how many were written.

        Raises:
            StoreFailed: they are more than it takes; none was written.
        """
        if len(self._rows) + sum(key not in self._rows for key in rows) > self._most:
            raise StoreFailed(self.name, "full", f"is full with {self._most:,} rows; use Redis for more")
        written = {
            key: row
            for key, row in rows.items()
            if key not in self._rows or row.stamp_ms >= self._rows[key].stamp_ms
        }
        self._rows |= written
        for changed in self._followers if written else ():
            changed(written.keys(), written)
        return len(written)

    async def now_ms(self) -> int:
        """The time by this host's clock."""
        return time.time_ns() // 1_000_000

    async def follow(self, changed: Changed, hears: Hears) -> None:
        """Tell of changes until cancelled."""
        self._followers.add(changed)
        hears(True)
        try:
            await asyncio.Event().wait()
        finally:
            self._followers.discard(changed)

    async def close(self) -> None:
        """Nothing to let go of."""
