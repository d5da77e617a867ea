"""When to stop asking a store that does not answer, and when to try it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "half-open", "open"]
"""Open while calls fail, half-open while one tries whether they still do."""


class Breaker:
    """Closed while calls succeed; open after some failures in a row; half-open while one call tries.

    Calls that are under way together and fail together are one failure: a stall of our own fails them all. An
    open breaker lets one call through every `retry_s` seconds. If that succeeds it closes. A call that never
    says how it went holds nothing up: another may try after as long again.

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
        self._counted = 0
        self._next_try = 0.0
        self._trying = False

    @property
    def state(self) -> State:
        """`closed`, `open` or `half-open`."""
        if self._failures < self._most:
            return "closed"
        return "half-open" if self._trying else "open"

    def admits(self) -> int | None:
        """A number for a call that may go through now, which then says `succeeded` or `failed`; else None."""
        if self._failures == self._most:
            if self._clock() < self._next_try:
                return None
            self._trying, self._next_try = True, self._clock() + self._retry_s
        return self._counted

    def answers(self) -> None:
        """Somebody else has heard of the store: the next call need not wait to try it."""
        self._next_try = self._clock()

    def succeeded(self) -> None:
        """A call went well."""
        self._failures, self._trying = 0, False

    def failed(self, call: int) -> None:
        """A call went wrong. It counts unless it was admitted before the last one that did."""
        if call < self._counted:
            return
        self._counted += 1
        self._failures, self._trying = min(self._failures + 1, self._most), False
        if self._failures == self._most:
            self._next_try = self._clock() + self._retry_s
