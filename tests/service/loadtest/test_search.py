"""Which rate to try next, against services that are functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loadtest.search import CLOSE, MOST_STEPS, Seen, Step, highest, next_of_sweep, next_rate

GOOD, SLOW, BROKEN = Seen(5.0, 20.0, 0), Seen(30.0, 90.0, 0), Seen(5.0, 20.0, 3)


def step(rate: float, *windows: Seen) -> Step:
    """A rate that was tried; each of its three windows was good where nothing else is said."""
    return Step(rate, windows or (GOOD, GOOD, GOOD))


def search(service: Callable[[float], Step], first: float = 50.0) -> list[Step]:
    """All steps of a search."""
    steps: list[Step] = []
    while (rate := next_rate(steps, first, 50.0)) is not None:
        steps.append(service(rate))
    return steps


@pytest.mark.parametrize(
    ("windows", "fault"),
    [
        ((GOOD, GOOD, GOOD), None),
        ((GOOD, SLOW, GOOD), "p99 missed 1/3"),
        ((GOOD, BROKEN, GOOD), "3 errors"),
        ((GOOD, SLOW, BROKEN), "3 errors"),
        ((Seen(5, 45, 0), Seen(15, 45, 0), Seen(25, 45, 0)), "p50 not stable"),
        ((Seen(1, 8, 0), Seen(4, 8, 0), Seen(2, 8, 0)), None),  # far from the objective: noise
        ((GOOD, Seen(float("nan"), float("nan"), 0), GOOD), "p99 missed 1/3"),
    ],
)
def test_a_rate_holds_when_all_windows_do(windows: tuple[Seen, ...], fault: str | None) -> None:
    """No error, p99 within the objective, a p50 that stays put; a window without requests says nothing."""
    assert step(10, *windows).fault(50.0) == fault


@given(capacity=st.floats(2, 5_000), first=st.floats(1, 1_000))
def test_the_highest_rate_is_found(capacity: float, first: float) -> None:
    """Of a service with a sharp limit: within a twentieth, whether the first rate is below or above it."""
    steps = search(lambda rate: step(rate) if rate <= capacity else step(rate, SLOW, SLOW, SLOW), first)
    found = highest(steps, 50.0)
    assert len(steps) <= MOST_STEPS
    if len(steps) < MOST_STEPS:
        assert found is not None
        assert capacity / CLOSE * 0.99 <= found <= capacity


def test_a_search_begins_by_doubling_and_goes_on_by_halving() -> None:
    """The steps of one, in full."""
    steps = search(lambda rate: step(rate) if rate <= 260 else step(rate, BROKEN, BROKEN, BROKEN))
    assert [one.rate for one in steps] == [50, 100, 200, 400, 300, 250, 275, 262]


def test_a_hiccup_gets_a_second_try() -> None:
    """One window of three beyond the objective, without errors; but one more try, not two."""
    once = iter([step(50, GOOD, SLOW, GOOD)])
    steps = search(lambda rate: next(once, step(rate)) if rate <= 60 else step(rate, SLOW, SLOW, SLOW))
    assert [one.rate for one in steps][:3] == [50, 50, 100]
    steps = search(lambda rate: step(rate, GOOD, SLOW, GOOD), first=8)
    assert [one.rate for one in steps] == [8, 8, 4, 4, 2, 2, 1, 1]
    assert highest(steps, 50.0) is None


def test_a_service_without_limit_ends_the_search() -> None:
    """After a bounded number of steps."""
    assert len(search(step)) == MOST_STEPS


def test_a_service_that_never_holds_ends_the_search() -> None:
    """At one request a second."""
    steps = search(lambda rate: step(rate, BROKEN, BROKEN, BROKEN))
    assert highest(steps, 50.0) is None
    assert min(one.rate for one in steps) >= 1


def test_a_sweep_of_its_own_rates_leads_beyond_capacity() -> None:
    """Doubling until the service can't keep up, then four rates below that."""
    tried: list[tuple[float, bool]] = []
    while (rate := next_of_sweep(tried, 20)) is not None:
        tried.append((rate, rate > 100))
    assert [rate for rate, _ in tried] == [20, 40, 80, 160, 96, 112, 128, 144]


def test_a_sweep_begins_beyond_capacity_too() -> None:
    """Then the rates between lead down towards nothing; and one that never overloads ends."""
    tried: list[tuple[float, bool]] = []
    while (rate := next_of_sweep(tried, 100)) is not None:
        tried.append((rate, True))
    assert [rate for rate, _ in tried] == [100, 20, 40, 60, 80]
    tried = []
    while (rate := next_of_sweep(tried, 1)) is not None:
        tried.append((rate, False))
    assert len(tried) == MOST_STEPS
