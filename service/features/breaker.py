"""When to stop asking a store that does not answer, and when to try it again."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.features.store import State


class Breaker:
    """Closed while calls succeed; open after some failures in a row; half-open while one call tries.

    An open breaker lets one call through every `retry_s` seconds. If that succeeds it closes. A call that
    never says how it went holds nothing up: another may try after as long again.

    Args:
        failures: in a row, after which it opens.
        retry_s: between two tries while it is open.
        clock: seconds, never going back.
    """

    def __init__(
        self, failures: int = 5, retry_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._retry_s, self._clock = failures, retry_s, clock
        self._failures = 0
        self._next_try = 0.0
        self._trying = False

    @property
    def state(self) -> State:
        """`closed`, `open` or `half-open`."""
        if self._failures < self._most:
            return "closed"
        return "half-open" if self._trying else "open"

    def admits(self) -> bool:
        """May a call go through now? Whoever may says `succeeded` or `failed` afterwards."""
        if self._failures < self._most:
            return True
        if self._clock() < self._next_try:
            return False
        self._trying, self._next_try = True, self._clock() + self._retry_s
        return True

    def succeeded(self) -> None:
        """A call went well."""
        self._failures, self._trying = 0, False

    def failed(self) -> None:
        """A call went wrong."""
        self._failures, self._trying = min(self._failures + 1, self._most), False
        if self._failures == self._most:
            self._next_try = self._clock() + self._retry_s
