"""Which row holds which item: every item of a run has one, and the least recently used make room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.budget import KEPT_BYTES
from service.places import EVICTED, LOOKED_AT, NUMBERS, STEP, Placed, Places

NONE = np.empty(0, np.int32)


class Memory:
    """What is written where: a run's items are written to their rows, and read from there again."""

    def __init__(self, places: Places, rows: int, *, filled: int = 0) -> None:
        self._places = places
        self._written: list[object] = [*range(filled), *[None] * (rows - filled)]

    def run(self, items: list[int], changed: dict[int, int], *, fails: bool = False) -> Placed:
        """Place items of the catalogue, some positions changed to numbers; what is missing is written."""
        at = np.array(sorted(changed), np.int32)
        numbers = np.array([changed[position] for position in sorted(changed)], np.int64)
        placed = self._places.place(np.array(items, np.int32), at, numbers)
        names: list[object] = [
            ("changed", changed[at] or object()) if at in changed else item for at, item in enumerate(items)
        ]
        for position, row in zip(placed.missing, placed.into, strict=True):
            self._written[row] = "half" if fails else names[position]
        if not fails:
            self._places.keep(placed)
            assert [self._written[row] for row in placed.rows] == names
        return placed


def on_demand(pool: int, *, items: int = 1000, scratch: int = 16) -> tuple[Places, Memory]:
    """Places for items that are held as long as there is room for them."""
    places = Places(items, False, scratch, pool, pool)
    return places, Memory(places, scratch + pool)


def test_a_resident_catalogue_has_its_own_rows() -> None:
    """They never move; what changed lies beyond, and what is not kept nowhere."""
    places = Places(10, True, 4, 4, 4)
    memory = Memory(places, 18, filled=10)
    assert memory.run([3, 0, 9, 3], {}).rows.tolist() == [3, 0, 9, 3]
    placed = memory.run([3, 3, 5], {1: 7, 2: 0})
    assert placed.rows[0] == 3
    assert placed.rows[1] >= 14
    assert 10 <= placed.rows[2] < 14
    again = memory.run([3, 3, 5], {1: 7, 2: 0})
    assert again.missing.tolist() == [2]
    assert (places.hits, places.misses, places.evictions, places.held) == (7, 3, 0, 11)


def test_an_item_is_computed_once_a_run() -> None:
    """However often the run has it."""
    _, memory = on_demand(8)
    assert memory.run([5, 5, 6, 5], {0: 0, 2: 9}).missing.tolist() == [0, 2, 1]


def test_the_least_recently_used_make_room() -> None:
    """In the order of their last use, whenever they came; a part of the pool at once."""
    pool = 4 * EVICTED
    places, memory = on_demand(pool)
    for item in range(pool):
        memory.run([item], {})
    memory.run(list(range(0, 8)), {})  # the first ones are used again
    memory.run([pool], {})
    assert places.evictions == pool // EVICTED
    gone = [8, 9, 10, 11]
    for item in range(pool + 1):
        if item not in gone:
            assert not len(memory.run([item], {}).missing)
    assert all(len(memory.run([item], {}).missing) for item in gone)


def test_two_requests_in_turn_on_a_table_of_64_rows() -> None:
    """Each needs more rows than the other leaves: they evict each other, and neither reads the other's."""
    places, memory = on_demand(64, scratch=48)
    first, second = list(range(48)), list(range(100, 148))
    for _ in range(5):
        assert len(memory.run(first, {}).rows) == 48
        assert len(memory.run(second, {}).rows) == 48
    assert places.evictions
    assert places.held <= 64


def test_no_row_in_use_is_given_away() -> None:
    """A run that needs all rows keeps them; what has no room has a scratch row, and is not kept."""
    places, memory = on_demand(4, scratch=10)
    memory.run([1, 2, 3, 4], {})
    placed = memory.run([4, 3, 2, 1, 5, 6, 7], {})
    assert (placed.rows < 10).tolist() == [False] * 4 + [True] * 3
    assert places.evictions == 0
    assert not len(memory.run([1, 2, 3, 4], {}).missing)


def test_what_could_not_be_computed_is_not_kept() -> None:
    """After a run that broke, its items are as unknown as before, and no row is lost."""
    places, memory = on_demand(8)
    memory.run([1], {})
    for _ in range(5):
        memory.run([1, 2, 3], {2: 4}, fails=True)
        assert places.held == 1
    assert len(memory.run([1, 2, 3], {2: 4}).missing) == 2
    memory.run(list(range(10, 18)), {})
    assert places.held == 8


def test_two_numbers_of_one_place_are_never_taken_for_each_other() -> None:
    """The one that came last is known; the other is computed again, and while both have rows."""
    places, memory = on_demand(4)
    apart = 4 * NUMBERS
    turns = (1, 1 + apart, 1, 1 + 2 * apart, 1 + apart, 2, 2 + apart, 1)
    assert [len(memory.run([3], {0: number}).missing) for number in turns] == [1] * len(turns)
    assert places.held == 4
    assert not len(memory.run([3], {0: 1}).missing)


def test_the_pool_grows_when_it_is_allowed_to() -> None:
    """Once it has more rows; until then, what is in it makes room."""
    places = Places(10_000, False, STEP, STEP, 10_000)
    held = []
    for start in range(0, 4 * STEP, STEP):
        held.append((places.held, places.full, places.evictions))
        if start == 2 * STEP:
            places.pool = 3 * STEP
        places.keep(places.place(np.arange(start, start + STEP, dtype=np.int32), NONE, NONE.astype(np.int64)))
    assert held == [(0, False, 0), (STEP, True, 0), (STEP, True, STEP), (2 * STEP, False, STEP)]
    assert (places.held, places.full) == (3 * STEP, True)


def test_few_are_evicted_from_a_large_pool_at_a_time() -> None:
    """However large it is: what a run waits for does not grow with it. They are among the oldest."""
    pool, runs = 20 * LOOKED_AT, 256
    places = Places(2 * pool, False, 16, pool, pool)
    for items in np.arange(pool, dtype=np.int32).reshape(runs, -1):
        places.keep(places.place(items, NONE, NONE.astype(np.int64)))
    for item in range(pool, pool + 5_000):
        before = places.evictions
        places.keep(places.place(np.array([item], np.int32), NONE, NONE.astype(np.int64)))
        assert places.evictions - before in {0, LOOKED_AT // EVICTED}
    younger = np.arange(pool // 8, pool + 5_000, dtype=np.int32)
    assert not len(places.place(younger, NONE, NONE.astype(np.int64)).missing)


def test_a_run_has_as_many_rows_as_it_needs() -> None:
    """Also where it needs more than are looked at at once."""
    pool, many = 3 * LOOKED_AT, 2 * LOOKED_AT
    places = Places(2 * pool, False, many, pool, pool)
    for first in (0, many, 2 * many):
        placed = places.place(np.arange(first, first + many, dtype=np.int32), NONE, NONE.astype(np.int64))
        places.keep(placed)
        assert placed.rows.min() >= many  # behind the scratch rows
    assert places.held <= pool


KEPT = """
from pathlib import Path
import numpy as np
from service.places import Places

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

rows, run = 350_000, 500
at, items = np.arange(run, dtype=np.int32), np.zeros(run, np.int32)
places = Places(10, True, run, rows, rows)
before = peak()
for first in range(1, 3 * rows, run):
    places.keep(places.place(items, at, np.arange(first, first + run)))
print((peak() - before) / rows)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' account of memory")
def test_what_is_kept_takes_as_much_memory_as_is_counted() -> None:
    """A pool of changed items that come and go, as the system sees it, by row."""
    ended = subprocess.run([sys.executable, "-c", KEPT], text=True, capture_output=True, check=True)
    assert KEPT_BYTES / 2 < float(ended.stdout) <= KEPT_BYTES


runs = st.lists(
    st.tuples(
        st.lists(st.integers(0, 29), min_size=1, max_size=16),
        st.dictionaries(st.integers(0, 15), st.integers(0, 40), max_size=6),
        st.booleans(),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(runs=runs, pool=st.integers(0, 8) | st.integers(9, 64), resident=st.booleans())
def test_every_item_is_where_it_is_said_to_be(
    runs: list[tuple[list[int], dict[int, int], bool]], pool: int, resident: bool
) -> None:
    """Whatever runs there are, and however small the pool: the row of an item has what was written for it."""
    places = Places(30, resident, 16, pool, pool)
    memory = Memory(places, 30 + 16 + pool, filled=30 * resident)
    for items, changed, fails in runs:
        memory.run(items, {at: number for at, number in changed.items() if at < len(items)}, fails=fails)
        assert places.held <= pool + 30 * resident
