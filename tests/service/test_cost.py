"""The learned cost of a run: the best line there is, against the plain way, and in spite of odd runs."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.cost import TIMES, Cost

RUNS = st.lists(st.tuples(st.integers(1, 3_000), st.floats(1e-5, 10.0)), min_size=1, max_size=30)
WARM_UP = (1, 20, 40, 80, 100, 160, 200, 400, 2_048)
"""rows that are measured before the first request"""


def learned(runs: list[tuple[int, float]], cost: Cost | None = None) -> Cost:
    """The cost after these runs."""
    cost = cost or Cost()
    for rows, seconds in runs:
        cost = cost.after(rows, seconds)
    return cost


def line(runs: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares of the relative error by the solver: of what is allowed, the best."""
    x, y = np.array(runs).T
    found = []
    for design in (np.stack([np.ones_like(x), x]), np.stack([np.ones_like(x), 0 * x]), np.stack([0 * x, x])):
        height, slope = np.linalg.lstsq((design / y).T, np.ones_like(y), rcond=None)[0]
        off = float(np.sum(((height + slope * x) / y - 1) ** 2))
        if height >= 0 and slope >= 0:
            found.append((off, float(height), float(slope)))
    return min(found)[1:]


@given(RUNS)
def test_it_is_the_best_line_that_is_nowhere_negative(runs: list[tuple[int, float]]) -> None:
    """As the solver finds it."""
    assume(len({rows for rows, _ in runs}) > 1)
    cost, (height, slope) = Cost.through(runs), line(runs)
    for size in (1, 50, 3_000):
        assert cost.of(size) == pytest.approx(height + slope * size, rel=1e-4)


@given(RUNS, RUNS, st.integers(1, 10**6))
def test_a_run_always_costs_something(
    before: list[tuple[int, float]], runs: list[tuple[int, float]], rows: int
) -> None:
    """Neither a run nor a row is ever negative, and together they are more than nothing."""
    cost = learned(runs, Cost.through(before))
    assert cost.fixed_s >= 0
    assert cost.row_s >= 0
    assert 0 < cost.of(rows) < float("inf")


@given(
    st.floats(1e-5, 1e-2),
    st.floats(1e-7, 1e-3),
    st.lists(st.floats(0.9, 1.1), min_size=len(WARM_UP), max_size=len(WARM_UP)),
    st.lists(st.tuples(st.integers(1, 3_000), st.integers(1, 300)), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_whatever_sizes_come_it_knows_what_the_others_cost(
    fixed_s: float, row_s: float, noise: list[float], traffic: list[tuple[int, int]], seed: int
) -> None:
    """Hundreds of runs of a size teach nothing wrong about another, as long as the machine is as fast."""
    measured = [(rows, times * (fixed_s + row_s * rows)) for rows, times in zip(WARM_UP, noise, strict=True)]
    random = np.random.default_rng(seed)
    runs = [
        (rows, random.uniform(0.8, 1.25) * (fixed_s + row_s * rows))
        for rows, count in traffic
        for _ in range(count)
    ]
    cost = learned(runs, Cost.through(measured))
    for rows in WARM_UP:
        assert 0.6 < cost.of(rows) / (fixed_s + row_s * rows) < 1.6


def test_a_machine_that_is_busy_is_slower_for_all() -> None:
    """Small runs that take three times as long tell of large ones."""
    cost = Cost(2e-3, 1e-5)
    slow = learned([(1, 3 * cost.of(1))] * 100, cost)
    assert slow.of(2_000) == pytest.approx(3 * cost.of(2_000), rel=0.05)


@pytest.mark.parametrize("count", [1, 3, 500])
def test_of_one_size_it_is_in_proportion(count: int) -> None:
    """Where nothing was measured before, there is nothing better to say."""
    for cost in (learned([(200, 0.004)] * count), Cost.through([(200, 0.004)] * count)):
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
    cost = learned(usual, Cost.through(usual))
    assert cost.after(300, stall).of(300) < 1.5 * cost.of(300)
    assert learned(usual, cost.after(300, stall)).of(300) == pytest.approx(0.004, rel=0.05)


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
    cost = learned([*before, *after], Cost.through(before))
    assert cost.of(200) == pytest.approx(0.015 * times, rel=0.1)


def test_a_clock_that_stands_still_does_no_harm() -> None:
    """A run of no time is next to nothing, and what follows is believed again."""
    cost = learned([(100, 0.0)] * 3)
    assert cost.of(100) > 0
    for _ in range(200):
        cost = cost.after(100, 0.005)
    assert cost.of(100) == pytest.approx(0.005, rel=0.05)
