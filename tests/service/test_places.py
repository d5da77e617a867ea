"""Which row holds which item: every item of a run has one, and the least recently used make room."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.places import EVICTED, STEP, Placed, Places

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
    places = Places(items, False, scratch, pool, pool, lambda: pool)
    return places, Memory(places, scratch + pool)


def test_a_resident_catalogue_has_its_own_rows() -> None:
    """They never move; what changed lies beyond, and what is not kept nowhere."""
    places = Places(10, True, 4, 4, 4, lambda: 4)
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


def test_the_pool_grows_when_it_is_allowed_to() -> None:
    """It asks when it is full, and not before; beyond what it is told, it evicts."""
    allowed, asked = iter([STEP, 2 * STEP, 2 * STEP]), []

    def more() -> int:
        asked.append(places.held)
        return next(allowed)

    places = Places(10_000, False, STEP, STEP, 10_000, more)
    for start in range(0, 3 * STEP, STEP):
        places.keep(places.place(np.arange(start, start + STEP, dtype=np.int32), NONE, NONE.astype(np.int64)))
    assert (places.held, places.evictions) == (2 * STEP, STEP)
    assert asked == [STEP, STEP, 2 * STEP][: len(asked)]


runs = st.lists(
    st.tuples(
        st.lists(st.integers(0, 29), min_size=1, max_size=16),
        st.dictionaries(st.integers(0, 15), st.integers(0, 12), max_size=6),
        st.booleans(),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(runs=runs, pool=st.integers(0, 64), resident=st.booleans())
def test_every_item_is_where_it_is_said_to_be(
    runs: list[tuple[list[int], dict[int, int], bool]], pool: int, resident: bool
) -> None:
    """Whatever runs there are, and however small the pool: the row of an item has what was written for it."""
    places = Places(30, resident, 16, pool, pool, lambda: pool)
    memory = Memory(places, 30 + 16 + pool, filled=30 * resident)
    for items, changed, fails in runs:
        memory.run(items, {at: number for at, number in changed.items() if at < len(items)}, fails=fails)
        assert places.held <= pool + 30 * resident
