"""The learned cost of a run: the best line there is, against the plain way, and in spite of odd runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cost import FAINT, MEMORY, TIMES, Cost

RUNS = st.lists(st.tuples(st.integers(1, 3_000), st.floats(1e-5, 10.0)), min_size=1, max_size=30)


def learned(runs: list[tuple[int, float]]) -> Cost:
    """The cost after these runs."""
    cost = Cost()
    for rows, seconds in runs:
        cost = cost.after(rows, seconds)
    return cost


def line(rows: list[float], seconds: list[float]) -> tuple[float, float]:
    """Weighted least squares by the solver, with the faint run of nothing: of what is allowed, the best."""
    age = np.arange(len(rows))[::-1]
    weight = np.sqrt(np.append(MEMORY**age, FAINT))
    x, y = np.append(rows, 0.0), np.append(seconds, 0.0)
    found = []
    for design in (np.stack([np.ones_like(x), x]), np.stack([np.ones_like(x), 0 * x]), np.stack([0 * x, x])):
        height, slope = np.linalg.lstsq((design * weight).T, y * weight, rcond=None)[0]
        off = float(np.sum((weight * (height + slope * x - y)) ** 2))
        if height >= -1e-12 and slope >= -1e-15:
            found.append((off, float(height), float(slope)))
    return min(found)[1:]


@given(RUNS)
def test_it_is_the_best_line_that_is_nowhere_negative(runs: list[tuple[int, float]]) -> None:
    """As least squares over the whole past gives it, each surprise cut to what is believed of it."""
    rows: list[float] = []
    seconds: list[float] = []
    for size, taken in runs:
        if rows:
            height, slope = line(rows, seconds)
            expected = height + slope * size
            seconds = [past * min(1.0, TIMES * taken / expected) for past in seconds]
            taken = min(taken, TIMES * expected)
        rows.append(size)
        seconds.append(taken)
    cost, (height, slope) = learned(runs), line(rows, seconds)
    for size in (1, 50, 3_000):
        assert cost.of(size) == pytest.approx(height + slope * size, rel=1e-4)


@given(RUNS, st.integers(1, 10**6))
def test_a_run_always_costs_something(runs: list[tuple[int, float]], rows: int) -> None:
    """Neither a run nor a row is ever negative, and together they are more than nothing."""
    cost = learned(runs)
    assert cost.fixed_s >= 0
    assert cost.row_s >= 0
    assert 0 < cost.of(rows) < float("inf")


def test_it_finds_what_a_run_and_what_a_row_costs() -> None:
    """From runs of different sizes, to within a few percent."""
    sizes = np.random.default_rng(0).integers(10, 600, 200)
    cost = learned([(int(rows), 2e-3 + 1e-5 * int(rows)) for rows in sizes])
    assert cost.fixed_s == pytest.approx(2e-3, rel=0.05)
    assert cost.row_s == pytest.approx(1e-5, rel=0.05)


@pytest.mark.parametrize("count", [1, 3, 500])
def test_of_one_size_it_is_in_proportion(count: int) -> None:
    """As long as it has seen no other size there is nothing better to say."""
    cost = learned([(200, 0.004)] * count)
    assert [cost.of(rows) for rows in (100, 200, 1_000)] == pytest.approx([0.002, 0.004, 0.02])


def test_before_the_first_run_it_knows_nothing() -> None:
    """And says so; after the first one it does."""
    assert not Cost().known
    assert Cost().of(1_000) == 0
    assert Cost().after(10, 0.001).known


def test_runs_and_rows_are_told_apart() -> None:
    """Ten rows in two runs cost one run more than in one, and a share of a run costs a share."""
    cost = Cost(fixed_s=1.0, row_s=0.5)
    assert [cost.of(10, runs) for runs in (0, 0.25, 1, 2)] == [5.0, 5.25, 6.0, 7.0]


@pytest.mark.parametrize("stall", [1.0, 1e3, 1e9])
def test_a_stall_of_the_machine_is_hardly_believed(stall: float) -> None:
    """However long it was, and soon forgotten."""
    usual = [(rows, 1e-3 + 1e-5 * rows) for rows in (20, 500, 100, 300)] * 20
    assert learned([*usual, (300, stall)]).of(300) < 1.5 * learned(usual).of(300)
    assert learned([*usual, (300, stall), *usual]).of(300) == pytest.approx(0.004, rel=0.05)


def test_a_first_run_that_stalled_is_soon_forgotten() -> None:
    """The first of the others shows that it was odd."""
    stalled = [(100, 60.0)]
    assert learned([*stalled, (100, 0.002)]).of(100) <= TIMES * 0.002
    assert learned([*stalled, *[(100, 0.002)] * 100]).of(100) == pytest.approx(0.002, rel=0.05)


@pytest.mark.parametrize("times", [0.02, 50.0])
def test_a_machine_that_has_become_another_is_followed(times: float) -> None:
    """What is odd once is the rule after some runs."""
    before = [(100, 0.01), (200, 0.015)] * 50
    after = [(100, 0.01 * times), (200, 0.015 * times)] * 50
    assert learned([*before, *after]).of(200) == pytest.approx(0.015 * times, rel=0.1)


def test_a_clock_that_stands_still_does_no_harm() -> None:
    """A run of no time is next to nothing, and what follows is believed again."""
    cost = learned([(100, 0.0)] * 3)
    assert cost.of(100) > 0
    for _ in range(200):
        cost = cost.after(100, 0.005)
    assert cost.of(100) == pytest.approx(0.005, rel=0.05)
