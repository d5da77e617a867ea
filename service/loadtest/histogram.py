"""Durations in an HdrHistogram: every percentile to three digits, in constant memory, and it adds up.

The library is that of the extra `loadtest`, and imported where a histogram is made: all else does without.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from service.loadtest.errors import LoadTestError

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
LONGEST_S = 600.0
"""A longer duration is counted as this one."""
BEYOND = 10
"""A percentile rests on its samples beyond it; with fewer than these it is chance."""


def need(module: str) -> None:
    """Raise LoadTestError, with the fix, where a library of the extra is missing."""
    if importlib.util.find_spec(module) is None:
        raise LoadTestError(
            f"there is no package {module}; install it with: pip install 'rankserve[loadtest]'"
        )


class Durations:
    """How long things took, from a microsecond up.

    Args:
        encoded: what `encoded()` of another gave.
    """

    def __init__(self, encoded: str | None = None) -> None:
        from hdrh.histogram import HdrHistogram

        self._histogram: Any = HdrHistogram(1, round(1e6 * LONGEST_S), 3)
        if encoded is not None:
            self._histogram.decode_and_add(encoded)

    def record(self, seconds: float) -> None:
        """One more."""
        self._histogram.record_value(round(1e6 * min(max(0.0, seconds), LONGEST_S)))

    def add(self, others: Durations) -> None:
        """All of the others."""
        self._histogram.add(others._histogram)

    def encoded(self) -> str:
        """In HdrHistogram's own format (V2, base64), in microseconds: its tools in any language read it."""
        text: bytes = self._histogram.encode()
        return text.decode()

    @property
    def count(self) -> int:
        """How many."""
        return int(self._histogram.total_count)

    def ms(self, percentile: float) -> float:
        """The percentile in milliseconds; 100 is the longest of all. NaN where there are none."""
        if not self.count:
            return float("nan")
        if percentile == 100:
            return float(self._histogram.get_max_value()) / 1e3
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e3

    def carries(self, percentile: float) -> bool:
        """Do enough samples lie beyond the percentile?"""
        return self.count * (100 - percentile) / 100 >= BEYOND - 1e-6

    def summary(self) -> dict[str, float | int | str | None]:
        """Count; percentiles and the greatest in milliseconds, null where there are none; the histogram."""
        at = {f"p{percentile:g}": self.ms(percentile) for percentile in PERCENTILES} | {"max": self.ms(100)}
        known = {name: ms if self.count else None for name, ms in at.items()}
        return {"count": self.count, **known, "hdr": self.encoded()}
