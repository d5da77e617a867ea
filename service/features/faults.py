"""Stored rows that cannot be read, told to the log: each with its key and the reason, and not too many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from service.features.store import RowKey

MOST = 10
"""lines in `PERIOD_S`; what goes beyond them is counted in the metrics alone"""
PERIOD_S = 60.0
LONGEST = 200
"""characters of a key, and of a reason"""

_log = logging.getLogger(__name__)


class Faults:
    """Tells of the rows of one store.

    Args:
        store: its name.
        clock: seconds, never going back.
    """

    def __init__(self, store: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._until, self._told = 0.0, 0

    def tell(self, key: RowKey, reason: str) -> None:
        """A row cannot be read, whole or in part; requests do without and are marked degraded."""
        if self._clock() >= self._until:
            self._until, self._told = self._clock() + PERIOD_S, 0
        self._told += 1
        if self._told > MOST:
            return
        _log.warning(
            "%s: the row of %s with the key %s cannot be read: %s; write it anew%s",
            self._store,
            key[0],
            ", ".join(map(repr, key[1:]))[:LONGEST],
            reason[:LONGEST],
            " (others of the next minute are counted, and not told)" if self._told == MOST else "",
        )
