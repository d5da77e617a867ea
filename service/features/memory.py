"""A store in the memory of one worker: for tests, and for a service of one worker without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from service.features.store import Changed, Row, RowKey, State


class MemoryFeatureStore:
    """Rows in a dictionary. They end with the process."""

    name: str = "memory"

    def __init__(self) -> None:
        self._rows: dict[RowKey, Row] = {}
        self._followers: set[Changed] = set()

    @property
    def state(self) -> State:
        """It cannot fail."""
        return "closed"

    @property
    def empty(self) -> bool:
        """Was nothing ever put?"""
        return not self._rows

    async def fetch(self, keys: Sequence[RowKey]) -> Mapping[RowKey, Row | None]:
        """The rows that there are."""
        return {key: self._rows[key] for key in keys if key in self._rows}

    async def put(self, rows: Mapping[RowKey, Row]) -> int:
        """Write rows whole, unless a later one is there; how many were written."""
        written = {
            key: row
            for key, row in rows.items()
            if key not in self._rows or row.stamp_ms >= self._rows[key].stamp_ms
        }
        self._rows |= written
        for changed in self._followers:
            changed(rows.keys())
        return len(written)

    async def follow(self, changed: Changed) -> None:
        """Tell of changes until cancelled."""
        self._followers.add(changed)
        changed(None)
        try:
            await asyncio.Event().wait()
        finally:
            self._followers.discard(changed)

    async def close(self) -> None:
        """Nothing to let go of."""
