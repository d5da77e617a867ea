"""How many requests share a run: what is measured, and what follows from it."""

from collections.abc import Mapping

import pytest

from service.sharing import ALONE, LARGER, ROUNDS, SHAPES, SMALL, Shape, Sharing, choose, measure


class Machine:
    """Takes the seconds that it is told to, by a clock of its own; every `stall` runs it stalls."""

    def __init__(self, seconds: Mapping[Shape, float], stall: int = 10**9) -> None:
        self.seconds, self.stall = seconds, stall
        self.runs: list[Shape] = []
        self.now = 0.0

    def run(self, requests: int, rows: int) -> None:
        """One run."""
        self.runs.append((requests, rows))
        self.now += self.seconds[requests, rows] + (60.0 if len(self.runs) % self.stall == 0 else 0.0)

    def clock(self) -> float:
        """Its time."""
        return self.now


def small(*seconds: float) -> dict[Shape, float]:
    """Seconds of runs of 1, 2, 4 and 8 small requests."""
    return {(requests, SMALL): taken for requests, taken in zip((1, 2, 4, 8), seconds, strict=False)}


def pairs(*gains: float) -> dict[Shape, float]:
    """Seconds of larger requests alone and by two, of which each takes so much less."""
    return {
        (count, rows): count * (1.0 if count == 1 else 1 - gain)
        for rows, gain in zip(LARGER, gains, strict=False)
        for count in (1, 2)
    }


@pytest.mark.parametrize("stall", [10**9, 7, 3])
def test_it_measures_the_least_in_turn(stall: int) -> None:
    """Each shape in each round, so that a slow while slows all; stalls count for nothing."""
    seconds = {(requests, rows): requests * rows / 100 + 1 for requests, rows in SHAPES}
    machine = Machine(seconds, stall)
    assert measure(machine.run, clock=machine.clock) == pytest.approx(seconds)
    assert machine.runs == list(SHAPES) * ROUNDS


def test_where_nothing_is_to_be_chosen_only_that_is_measured() -> None:
    """One request a run still says what it costs."""
    machine = Machine(small(2.0))
    assert measure(machine.run, [(1, SMALL)], machine.clock, rounds=3) == small(2.0)
    assert machine.runs == [(1, SMALL)] * 3


@pytest.mark.parametrize(
    ("seconds", "requests"),
    [
        (small(1.0, 2.0, 4.0, 8.0), 1),  # nothing gained
        (small(1.0, 1.93, 3.86, 7.7), 1),  # next to nothing
        (small(1.0, 2.4, 5.0, 12.0), 1),  # slower
        (small(1.0, 1.5, 2.5, 4.5), 8),  # the more the better
        (small(1.0, 1.5, 2.5, 4.9), 4),  # eight are hardly better than four
        (small(1.0, 1.2, 4.0, 9.0), 2),
        (small(1.0, 2.2, 2.0, 8.0), 4),  # two being slow says nothing of four
        (small(1.0), 1),  # nothing else was measured
    ],
)
def test_the_fewest_that_are_about_as_fast_as_any(seconds: dict[Shape, float], requests: int) -> None:
    """More in a run than pays would only make the first of them wait."""
    sharing = choose(seconds)
    assert sharing.requests == requests
    assert sharing == ALONE if requests == 1 else sharing.rows == requests * SMALL


@pytest.mark.parametrize(
    ("gains", "rows"),
    [((), 160), ((0.0,), 160), ((0.1,), 200), ((0.1, 0.04), 200), ((0.1, 0.06), 400), ((-0.1, 0.3), 160)],
)
def test_larger_ones_share_as_far_as_two_of_them_gain(gains: tuple[float, ...], rows: int) -> None:
    """What was not measured, or gains nothing, or is larger than what gains nothing, runs alone."""
    assert choose({**small(1.0, 1.5, 2.5, 4.5), **pairs(*gains)}).rows == rows


def test_where_small_ones_do_not_gain_none_share() -> None:
    """A gain of larger ones can only be noise then."""
    assert choose({**small(1.0, 2.0, 4.0, 8.0), **pairs(0.5, 0.5)}) == ALONE


def test_it_says_what_was_chosen_and_why() -> None:
    """For the log of the load."""
    assert str(ALONE) == "one request a run"
    assert str(choose(small(1.0, 1.0))) == (
        "up to 2 requests of 40 rows together share a run, 2.0 times as fast for small ones as one a run"
    )
    assert str(Sharing(32, 2048)) == "up to 32 requests of 2048 rows together share a run"
