"""Which rate to try next. Pure: from the steps so far to the next one.

The highest rate that holds is found by doubling until one does not, then by halving the gap between them.
A rate holds when three windows in a row do: no error, p99 within the objective, and a p50 that stays put.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.loadtest.notes import Judged

WINDOWS = 3
MOST_STEPS = 16
CLOSE = 1.05
"""The search ends when the rates that hold and don't are nearer than that."""
SPREAD = 0.5
"""The p50 of windows that are stable lie within this share of their mean …"""
OF_OBJECTIVE = 0.1
"""… or within this share of the objective."""
LOWEST = 1.0
"""requests a second; less is not looked for"""


class Seen(NamedTuple):
    """One window."""

    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True, slots=True)
class Step:
    """One rate, tried once."""

    rate: float
    windows: tuple[Seen, ...]

    @staticmethod
    def of(judged: Judged) -> Step:
        """What a run says."""
        return Step(
            judged.load.rate,
            tuple(
                Seen(window.latency.ms(50), window.latency.ms(99), window.errors)
                for window in judged.measured.windows
            ),
        )

    def fault(self, slo_p99_ms: float) -> str | None:
        """Why the rate does not hold, in few words, if it does not."""
        if errors := sum(window.errors for window in self.windows):
            return f"{errors:,} errors"
        if beyond := self.beyond(slo_p99_ms):
            return f"p99 missed {len(beyond)}/{len(self.windows)}"
        p50 = [window.p50_ms for window in self.windows]
        spread, mean = max(p50) - min(p50), sum(p50) / len(p50)
        if spread > max(SPREAD * mean, OF_OBJECTIVE * slo_p99_ms):
            return "p50 not stable"
        return None

    def beyond(self, slo_p99_ms: float) -> list[float]:
        """p99 of the windows that miss the objective; one without any request does, too."""
        return [window.p99_ms for window in self.windows if not window.p99_ms <= slo_p99_ms]

    def deserves_another_try(self, slo_p99_ms: float) -> bool:
        """Was it a hiccup: no error, and no more than one window that missed the objective?"""
        held = self.fault(slo_p99_ms) is None
        errors = any(window.errors for window in self.windows)
        return not held and not errors and len(self.beyond(slo_p99_ms)) <= 1


def steps(runs: Sequence[Judged]) -> list[Step]:
    """What runs say."""
    return [Step.of(run) for run in runs]


def highest(steps: Sequence[Step], slo_p99_ms: float) -> float | None:
    """The highest rate that held."""
    return max((step.rate for step in steps if step.fault(slo_p99_ms) is None), default=None)


def next_rate(steps: Sequence[Step], first: float, slo_p99_ms: float) -> float | None:
    """The rate of the next step; None where the search has ended."""
    if not steps:
        return first
    if len(steps) >= MOST_STEPS:
        return None
    newest = steps[-1]
    tries = sum(step.rate == newest.rate for step in steps)
    if tries == 1 and newest.deserves_another_try(slo_p99_ms):
        return newest.rate
    good = highest(steps, slo_p99_ms)
    bad = min((step.rate for step in steps if step.rate > (good or 0.0)), default=None)
    if bad is None:
        return 2 * newest.rate
    if good is None:
        return bad / 2 if bad / 2 >= LOWEST else None
    return _rounded((good + bad) / 2) if bad / good > CLOSE else None


def next_of_sweep(tried: Sequence[tuple[float, bool]], first: float) -> float | None:
    """The next rate of a sweep that finds its own: doubling until one is too much, then four below that.

    Args:
        tried: rates so far in their order, and whether each was too much.
        first: the rate to begin with.
    """
    rates = [rate for rate, _ in tried]
    top = next((rate for rate, over in tried if over), None)
    if top is None:
        return first * 2 ** len(rates) if len(rates) < MOST_STEPS else None
    low = top / 2 if top > first else 0.0
    between = [_rounded(low + (top - low) * part) for part in (0.2, 0.4, 0.6, 0.8)]
    return next((rate for rate in between if rate not in rates), None)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
