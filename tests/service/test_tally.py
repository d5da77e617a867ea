"""Numbers that processes share."""

import os
from collections.abc import Iterator

import pytest

from service.tally import AWAY, Tally, make


@pytest.fixture
def memory() -> Iterator[int]:
    """Of three workers."""
    fd = make(3)
    yield fd
    os.close(fd)


def test_everybody_is_away_at_first(memory: int) -> None:
    """A worker that has not started yet is waited for by nobody."""
    tally = Tally(memory)
    assert [tally[worker] for worker in range(3)] == [AWAY] * 3
    assert tally.others(0) == {}


def test_all_who_map_the_memory_see_one_tally(memory: int) -> None:
    """Another process too, which has the descriptor alone."""
    mine, yours = Tally(memory), Tally(memory)
    mine[0] = 2
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        Tally(memory)[1] = 2**40
        os._exit(0)
    assert yours.others(2) == {0: 2, 1: 2**40}
    assert yours.others(1) == {0: 2}


def test_a_beat_is_seen_by_all(memory: int) -> None:
    """And is no connection; that a worker is away, or another starts in its place, changes nothing of it."""
    mine, yours = Tally(memory), Tally(memory)
    mine[0], mine[1] = 2, 3
    for _ in range(3):
        mine.beat(1)
    yours[1] = AWAY
    yours.beat(1)
    assert [mine.beats(worker) for worker in range(3)] == [0, 4, 0]
    assert [mine[worker] for worker in range(3)] == [2, AWAY, AWAY]


def test_a_core_is_taken_by_a_run_or_kept_for_a_while(memory: int) -> None:
    """Kept is one core and no more, and none beside those of a run."""
    tally = Tally(memory)
    tally.take(0, 2, kept_until=10)
    tally.take(1, 0, kept_until=10)
    tally.take(2, 0)
    assert [tally.taken(now) for now in (9, 10)] == [3, 2]
    assert [tally.taken(9, but=worker) for worker in range(3)] == [1, 2, 3]


def test_without_files_in_memory_one_that_has_no_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems other than Linux."""
    monkeypatch.delattr(os, "memfd_create")
    fd = make(2)
    tally = Tally(fd)
    os.close(fd)
    assert (tally[0], tally[1]) == (AWAY, AWAY)
