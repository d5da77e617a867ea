"""What a version's predecessor holds of items' state, held by it, too: no request meets a table that is cold.

As much as there is room for before the version serves. More when the predecessor has gone and left its room:
a few items at a time, while the engine is idle.

A predecessor whose whole catalogue is resident does not know which of its items are wanted. A version that is
held on demand beside it, for want of room, begins cold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from service.bundle.columns import Rows
from service.bundle.encoder import Encoder
from service.bundle.pieces import pieces
from service.state import State

PIECE = 64
"""items at a time: a request waits for them 2 ms at most"""

PAUSE_S = 0.01
"""after each piece: the machine is the requests'"""

LOOK_S = 0.5
"""between two looks at whether there is room"""

LIMIT_S = 600.0
"""from when the version is ready. Its predecessor's room comes only when all workers are ready, too, and the
last lease has ended; after that long it is too long ago that the items were wanted"""


class Warming:
    """The items that a version is still to hold; the most wanted come first.

    Args:
        encoder: of the version, which knows its items.
        state: of its items.
        idle: does its engine run nothing?
    """

    def __init__(self, encoder: Encoder, state: State, idle: Callable[[], bool]) -> None:
        self._encoder, self._state, self._idle = encoder, state, idle
        self._wanted: Rows = np.empty(0, np.int32)

    def follow(self, before: Warming) -> None:
        """Hold what a version holds that serves, as far as there is room. Blocks; nothing else may run."""
        rows = before._state.recent()
        at, ids = rows[rows > 0] - 1, before._encoder.tables["item"].keys[0]
        known = [self._encoder.item_rows(ids[at[piece]]) for piece in pieces(len(at))]
        self._wanted = np.concatenate([self._wanted, *(found[found > 0] for found in known)])
        while self._is_due():
            self._hold_some()

    async def go_on(self) -> None:
        """Hold the others as room comes, between the engine's runs; for `LIMIT_S` at most."""
        over = time.monotonic() + LIMIT_S
        while len(self._wanted) and time.monotonic() < over:
            due = self._is_due()
            if due and self._idle():
                self._hold_some()
            await asyncio.sleep(PAUSE_S if due else LOOK_S)
        self.end()

    def end(self) -> None:
        """Hold no more."""
        self._wanted = self._wanted[:0]

    def _is_due(self) -> bool:
        return len(self._wanted) > 0 and self._state.room >= PIECE

    def _hold_some(self) -> None:
        some, self._wanted = self._wanted[:PIECE], self._wanted[PIECE:]
        self._state.warm(some)
