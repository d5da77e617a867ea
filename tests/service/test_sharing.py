"""Which requests share runs: what is measured, and what follows from it."""

from collections.abc import Mapping

import pytest

from service.sharing import REQUESTS, ROUNDS, ROWS, SHAPES, SMALL, Shape, Sharing, choose, measure


class Machine:
    """Takes the seconds that it is told to, by a clock of its own; every `stall` runs it stalls."""

    def __init__(self, seconds: Mapping[Shape, float], stall: int = 10**9) -> None:
        self.seconds, self.stall = seconds, stall
        self.runs: list[Shape] = []
        self.now = 0.0

    def run(self, requests: int, rows: int, shared: bool) -> None:
        """One batch."""
        self.runs.append((requests, rows, shared))
        self.now += self.seconds[requests, rows, shared] + (60.0 if len(self.runs) % self.stall == 0 else 0.0)

    def clock(self) -> float:
        """Its time."""
        return self.now


def gains(*shares: float) -> dict[Shape, float]:
    """Seconds of batches whose requests share runs and do not; shared, each takes so much less."""
    return {
        (REQUESTS, rows, shared): rows * (1 - gain if shared else 1.0)
        for rows, gain in zip(ROWS, shares, strict=False)
        for shared in (False, True)
    }


@pytest.mark.parametrize("stall", [10**9, 7, 3])
def test_it_measures_the_least_in_turn(stall: int) -> None:
    """Each shape in each round, so that a slow while slows all; stalls count for nothing."""
    seconds = {(requests, rows, shared): requests * rows / 100 + shared for requests, rows, shared in SHAPES}
    machine = Machine(seconds, stall)
    assert measure(machine.run, clock=machine.clock) == pytest.approx(seconds)
    assert machine.runs == list(SHAPES) * ROUNDS


def test_only_what_is_asked_for_is_measured() -> None:
    """A single request says what a run costs, where nothing is to be chosen."""
    single = {(1, SMALL, False): 2.0}
    machine = Machine(single)
    assert measure(machine.run, [*single], machine.clock, rounds=3) == single
    assert machine.runs == [*single] * 3


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        (gains(), 0),  # nothing was measured
        (gains(0.0), 0),
        (gains(0.04), 0),  # next to nothing
        (gains(-0.5, -0.5), 0),  # slower
        (gains(0.5), SMALL),
        (gains(0.5, 0.06), ROWS[1]),
        (gains(0.5, 0.3, 0.04), ROWS[1]),
        (gains(0.5, 0.3, 0.06, 0.06), ROWS[3]),
        (gains(0.5, 0.04, 0.3), SMALL),  # larger than what gains nothing: that can only be noise
        (gains(0.0, 0.3), 0),
    ],
)
def test_as_large_ones_share_as_gain(seconds: dict[Shape, float], rows: int) -> None:
    """What was not measured, or gains nothing, or is larger than what gains nothing, has its own runs."""
    assert choose(seconds).rows == rows


def test_it_says_what_was_chosen_and_why() -> None:
    """For the log of the load."""
    assert str(Sharing(0)) == "every request has runs of its own"
    assert str(choose(gains(0.5, 0.3))) == (
        "requests of up to 50 candidates share runs, 2.0 times as fast for small ones as one a run"
    )
    assert str(Sharing(2048)) == "requests of up to 2048 candidates share runs"
