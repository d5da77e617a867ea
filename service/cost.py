"""What a run of the engine costs: measured before the first request, and how busy the machine is since then.

What a run and what a row cost beside each other does not change while a model serves, but runs of one size
cannot tell it. So the line is drawn once, through runs of all sizes, and only its height follows the runs.

Knows no engine and no clock: rows and seconds come in, seconds come out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

WEIGHT = 0.05
"""of the last run, beside all before it: about the last twenty count"""
TIMES = 4.0
"""a run may take so many times what was expected, or the reverse; the rest of the surprise is not believed"""
LEAST_S = 1e-7
"""a run takes longer than that, whatever a coarse clock says"""


@dataclass(frozen=True, slots=True)
class Cost:
    """A line times a factor: ``slower * (fixed_s + row_s * rows)``, none of them negative.

    One stall of the machine moves little, for a run counts as at most `TIMES` what was expected of it. And
    where a run took less than a `TIMES`-th of that, it is the past that was odd: the factor falls at once.

    Attributes:
        fixed_s: seconds of a run, whatever its size.
        row_s: seconds a row.
        slower: how many times as long as that runs take by now.
    """

    fixed_s: float = 0.0
    row_s: float = 0.0
    slower: float = 1.0

    @staticmethod
    def through(runs: Collection[tuple[int, float]]) -> Cost:
        """The line through runs, each its rows and seconds: of those nowhere below zero, the best.

        By least squares of the error as a share of the run's seconds, so that it is as true for small runs as
        for large ones. Of one size alone, the cost is in proportion to the rows.
        """
        # A point of the line at u = 1 / seconds and v = rows / seconds is to be 1.
        points = [(1 / max(seconds, LEAST_S), rows / max(seconds, LEAST_S)) for rows, seconds in runs]
        u, v = (sum(axis) for axis in zip(*points, strict=True))
        uu, uv, vv = (sum(p[a] * p[b] for p in points) for a, b in ((0, 0), (0, 1), (1, 1)))
        if len({rows for rows, _ in runs}) == 1 or (fixed := u * vv - v * uv) <= 0:
            return Cost(0.0, v / vv)
        if (row := v * uu - u * uv) <= 0:
            return Cost(u / uu, 0.0)
        return Cost(fixed / (uu * vv - uv**2), row / (uu * vv - uv**2))

    @property
    def known(self) -> bool:
        """Has it seen a run?"""
        return self.fixed_s + self.row_s > 0

    def of(self, rows: float, runs: float = 1.0) -> float:
        """Seconds that so many rows take in so many runs; a part of a run is a share of one."""
        return self.slower * (self.fixed_s * runs + self.row_s * rows)

    def after(self, rows: int, seconds: float) -> Cost:
        """The cost as it is known after one more run, of at least one row."""
        if not self.known:
            return Cost.through([(rows, seconds)])
        found = self.slower * max(seconds, LEAST_S) / self.of(rows)
        slower = min(self.slower, TIMES * found)
        return replace(self, slower=slower + WEIGHT * (min(found, TIMES * slower) - slower))
