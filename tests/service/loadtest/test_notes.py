"""What is made of a run."""

from __future__ import annotations

from collections import Counter

import pytest

from service.loadtest.histogram import Durations
from service.loadtest.measured import LATE, SAMPLES, TIMEOUT, Measured, Window
from service.loadtest.notes import Judged
from service.loadtest.plan import Load

LOAD = Load(100, 100.0)


def durations(ms: float, count: int) -> Durations:
    """So many of the same."""
    found = Durations()
    for _ in range(count):
        found.record(ms / 1e3)
    return found


def measured(count: int = 10_000, *, ms: float = 5.0, late_ms: float = 0.2, cpu: float = 0.1) -> Measured:
    """A run that went well."""
    return Measured(
        [Window(durations(ms, count), planned=count)],
        in_time=count,
        versions=Counter(v1=count),
        candidates=10 * count,
        defaults=Counter(users=0, items=0),
        lateness=durations(late_ms, count),
        cpu=[cpu],
    )


def test_a_good_run_needs_no_note() -> None:
    """It has samples enough for every percentile, and nothing else to say."""
    judged = Judged(LOAD, measured(), slo_p99_ms=50)
    assert judged.notes() == {}
    assert judged.passed


@pytest.mark.parametrize(
    ("count", "thin"), [(9_999, ["p99.9"]), (999, ["p99", "p99.9"]), (150, ["p95", "p99", "p99.9"])]
)
def test_percentiles_without_samples_are_named(count: int, thin: list[str]) -> None:
    """Ten samples must lie beyond."""
    (note,) = Judged(LOAD, measured(count)).notes().values()
    assert [name for name in ("p50", "p90", "p95", "p99", "p99.9") if f"{name} (" in note] == thin


def test_a_missed_objective_is_told() -> None:
    """And fails the test."""
    judged = Judged(LOAD, measured(ms=60.0), slo_p99_ms=50)
    assert not judged.passed
    assert "misses the objective of 50 ms" in judged.notes()["objective"]
    assert Judged(LOAD, measured(ms=60.0)).passed


def test_a_growing_backlog_is_told() -> None:
    """One that grows on in the second half; not one that stays, nor one of a moment."""
    growing = measured()
    growing.backlog = [30 * sample for sample in range(SAMPLES + 1)]
    assert "backlog grew from 270 requests at half time to 570" in str(Judged(LOAD, growing).overload)
    once = measured()
    once.backlog[-1] = 200
    assert Judged(LOAD, once).overload is None
    level = measured()
    level.backlog = [500] * (SAMPLES + 1)
    assert Judged(LOAD, level).overload is None


def test_refused_requests_are_overload() -> None:
    """A service that sheds what is too much has no backlog, and does not keep up either."""
    shedding = measured()
    shedding.errors = Counter({"429 overloaded": 300, "504 deadline_exceeded": 50, "500 inference_failed": 9})
    overload = str(Judged(LOAD, shedding).overload)
    assert "429 overloaded 300, 504 deadline_exceeded 50" in overload
    assert "inference_failed" not in overload
    assert not Judged(LOAD, shedding).passed


@pytest.mark.parametrize(
    ("late_ms", "cpu", "fix"),
    [(0.2, 0.99, None), (5.0, 0.2, None), (5.0, 0.95, "more --processes"), (20.0, 0.2, "of its own")],
)
def test_a_generator_that_is_the_bottleneck_says_so(late_ms: float, cpu: float, fix: str | None) -> None:
    """By its lateness; a busy core alone may be one that waits for the next millisecond."""
    bound = Judged(LOAD, measured(late_ms=late_ms, cpu=cpu)).generator_bound
    assert (bound is None) if fix is None else (bound is not None and fix in bound)


@pytest.mark.parametrize("error", [LATE, TIMEOUT])
def test_a_late_generator_does_not_blame_the_service(error: str) -> None:
    """Where it turned to requests too late, or its lateness is most of what they waited; else it does."""
    late = measured(ms=500.0, late_ms=450.0)
    late.errors = Counter({error: 3_000})
    late.backlog = [30 * sample for sample in range(SAMPLES + 1)]
    assert Judged(LOAD, late).overload is None
    assert "generator" in Judged(LOAD, late).notes()
    late.lateness = durations(20.0, 100)
    overload = Judged(LOAD, late).overload
    assert overload is None if error == LATE else "backlog grew" in str(overload)


def test_windows_without_samples_enough_are_told() -> None:
    """With a duration that has them: some more than 1,000 requests a window."""
    windows = measured()
    windows.windows = [Window(durations(5.0, 500), planned=500) for _ in range(3)]
    judged = Judged(Load(50, 30.0, windows=3), windows, slo_p99_ms=50)
    assert not judged.carried
    assert "--duration 66 has enough" in judged.notes()["samples"]


def test_what_else_a_reader_must_know() -> None:
    """Degraded answers, several versions, ids that the service does not know."""
    odd = measured()
    odd.degraded = Counter(redis=7)
    odd.versions = Counter(v1=9_000, v2=1_000)
    odd.defaults = Counter(users=5_000, items=200)
    notes = " ".join(Judged(LOAD, odd).notes().values())
    for words in ("redis 7", "v1 9,000, v2 1,000", "50% of the users"):
        assert words in notes
    assert "of the items" not in notes  # 0.2 % of them: new ones
