"""What a run of the engine costs, learned from the runs there were.

Knows no engine and no clock: rows and seconds come in, seconds come out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MEMORY = 0.95
"""what a run's weight shrinks to with every later run: about the last twenty count"""
TIMES = 4.0
"""a run may take so many times what was expected, or the reverse; the rest of the surprise is not believed"""
FAINT = 0.1
"""weight of a run of no rows that took no time: it settles the line where all runs are of about one size"""
LEAST_S = 1e-7
"""a run takes longer than that, whatever a coarse clock says"""


class Sums(NamedTuple):
    """Weighted sums over the runs, all that the line needs to know of them."""

    runs: float = 0.0
    rows: float = 0.0
    squares: float = 0.0
    """of rows"""
    seconds: float = 0.0
    products: float = 0.0
    """of rows and seconds"""


@dataclass(frozen=True, slots=True)
class Cost:
    """A line through the runs: ``seconds = fixed_s + row_s * rows``, neither of them negative.

    By least squares, in which every run weighs `MEMORY` times as much as the next one. As long as all runs
    were of one size, the cost is in proportion to the rows.

    One stall of the machine moves little, for a run counts as at most `TIMES` what was expected of it. And
    where a run took less than a `TIMES`-th of that, it is the past that was odd: all of it is scaled down.

    Attributes:
        fixed_s: seconds of a run, whatever its size.
        row_s: seconds a row.
        sums: over the runs so far.
    """

    fixed_s: float = 0.0
    row_s: float = 0.0
    sums: Sums = field(default_factory=Sums)

    @property
    def known(self) -> bool:
        """Has it seen a run?"""
        return self.sums.runs > 0

    def of(self, rows: float, runs: float = 1.0) -> float:
        """Seconds that so many rows take in so many runs; a part of a run is a share of one."""
        return self.fixed_s * runs + self.row_s * rows

    def after(self, rows: int, seconds: float) -> Cost:
        """The cost as it is known after one more run, of at least one row."""
        seconds, past = max(seconds, LEAST_S), self.sums
        believed = 1.0
        if self.known:
            expected = self.of(rows)
            believed = min(1.0, TIMES * seconds / expected)
            seconds = min(seconds, TIMES * expected)
        sums = Sums(
            MEMORY * past.runs + 1.0,
            MEMORY * past.rows + rows,
            MEMORY * past.squares + rows * rows,
            MEMORY * believed * past.seconds + seconds,
            MEMORY * believed * past.products + rows * seconds,
        )
        return Cost(*_line(sums), sums)


def _line(sums: Sums) -> tuple[float, float]:
    """The best line of those that fall nowhere below zero: its height at no rows, and its slope."""
    runs = FAINT + sums.runs
    slope = (runs * sums.products - sums.rows * sums.seconds) / (runs * sums.squares - sums.rows**2)
    if slope < 0:
        return sums.seconds / runs, 0.0
    height = (sums.seconds - slope * sums.rows) / runs
    if height < 0:
        return 0.0, sums.products / sums.squares
    return height, slope
