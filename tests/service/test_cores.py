"""Cores of idle workers: who may borrow how many, and what is done there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cores import ALONE, KEPT_NS, Cores
from service.tally import Tally, make

WORKERS = 4


class Clock:
    """Goes on by so much with every look."""

    def __init__(self, step: int = KEPT_NS) -> None:
        self.now, self.step = 0, step

    def __call__(self) -> int:
        self.now += self.step
        return self.now


def taken(tally: Tally) -> int:
    """Cores that runs take; long after any was kept."""
    return tally.taken(10**18)


@pytest.fixture
def clock() -> Clock:
    """By which no core is kept any more when somebody looks again."""
    return Clock()


@pytest.fixture
def tally() -> Iterator[Tally]:
    """Of four workers that have no run."""
    fd = make(WORKERS)
    yield Tally(fd)
    os.close(fd)


def test_a_lone_run_has_all_cores_and_those_that_follow_what_is_left(tally: Tally, clock: Clock) -> None:
    """One of its own each, however many run; and what is given back can be borrowed again."""
    first, second, third = (Cores(tally, worker, WORKERS, clock) for worker in range(3))
    with first.taken(3) as most:
        assert (most.count, taken(tally)) == (3, 3)
        with second.taken(9) as left, third.taken(9) as own:
            assert (left.count, own.count, taken(tally)) == (1, 1, 5)
    with second.taken(9) as threads:
        assert threads.count == WORKERS
    assert taken(tally) == 0


def test_a_small_run_takes_no_more_than_it_can_use(tally: Tally, clock: Clock) -> None:
    """Its own thread at least, also where that is more than it asked for."""
    for most in (1, 0):
        with Cores(tally, 0, WORKERS, clock).taken(most) as threads:
            assert (threads.count, taken(tally)) == (1, 1)


def test_no_run_has_more_threads_than_the_machine_has_cores(tally: Tally, clock: Clock) -> None:
    """Workers beyond the cores have none to lend."""
    with Cores(tally, 0, 2, clock).taken(9) as threads:
        assert threads.count == 2


def test_two_runs_of_one_worker_count_together(tally: Tally, clock: Clock) -> None:
    """As while two versions serve: what one gives back is not what the other has."""
    cores = Cores(tally, 0, WORKERS, clock)
    with cores.taken(2):
        with cores.taken(9) as left:
            assert (left.count, taken(tally)) == (2, 4)
        assert taken(tally) == 2
    assert taken(tally) == 0


def test_a_run_that_fails_gives_its_cores_back(tally: Tally, clock: Clock) -> None:
    """Else nobody could borrow them until the worker's next run."""
    with pytest.raises(ZeroDivisionError), Cores(tally, 0, WORKERS, clock).taken(2):
        raise ZeroDivisionError
    assert taken(tally) == 0


def test_cores_of_a_worker_that_died_are_free_again(tally: Tally, clock: Clock) -> None:
    """The supervisor says so in its place."""
    with Cores(tally, 0, WORKERS, clock).taken(3):
        tally.take(0, 0)
        with Cores(tally, 1, WORKERS, clock).taken(9) as threads:
            assert threads.count == WORKERS


@given(st.integers(0, 20), st.integers(1, WORKERS))
def test_parts_come_back_in_order_whoever_did_them(parts: int, most: int) -> None:
    """As by `map`."""
    fd = make(WORKERS)
    with Cores(Tally(fd), 0, WORKERS).taken(most) as threads:
        assert threads.map(lambda part: part * 10, list(range(parts))) == [part * 10 for part in range(parts)]
    os.close(fd)


def test_parts_are_done_beside_each_other(tally: Tally, clock: Clock) -> None:
    """Each of as many parts as threads waits for all others: none of them follows another."""
    together = threading.Barrier(3)
    with Cores(tally, 0, WORKERS, clock).taken(3) as threads:
        assert len(threads.map(lambda _: together.wait(60), [0, 0, 0])) == 3


def test_one_thread_is_the_run_s_own() -> None:
    """Nothing is handed over where there is nobody to hand it to."""
    assert ALONE.map(lambda _: threading.get_ident(), [0, 0]) == [threading.get_ident()] * 2


def test_a_part_that_fails_fails_the_run_when_all_have_ended(tally: Tally, clock: Clock) -> None:
    """Nothing of a run is still computing when its state's rows may be given to others."""
    ended: list[int] = []
    failed = threading.Event()

    def call(part: int) -> None:
        if part == 0:
            failed.set()
            raise ZeroDivisionError
        failed.wait(60)
        ended.append(part)

    with Cores(tally, 0, WORKERS, clock).taken(2) as threads, pytest.raises(ZeroDivisionError):
        threads.map(call, [0, 1])
    assert ended == [1]


def test_a_worker_keeps_its_core_for_a_moment_after_a_run(tally: Tally) -> None:
    """Its answers are to be sent. It may use the core itself, and lends it again when the moment is over."""
    clock = Clock(step=0)
    first, second = (Cores(tally, worker, 2, clock) for worker in range(2))
    with first.taken(1):
        pass
    clock.now = KEPT_NS - 1
    with second.taken(9) as kept:
        assert kept.count == 1
    clock.now = KEPT_NS
    with first.taken(9) as own:
        assert own.count == 1  # the second has had a run since
    clock.now = 3 * KEPT_NS
    with first.taken(9) as lent:
        assert lent.count == 2
        with second.taken(9) as left:
            assert left.count == 1
    assert tally.taken(clock.now) == 2
