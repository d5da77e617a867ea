"""Rows of a batch, divided into runs."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.chunks import chunks, parts, spread

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
MOST = st.integers(1, 50)


def ends_of(lengths: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where each request's rows end."""
    return np.cumsum(lengths)


@given(st.integers(0, 20), st.integers(0, 100), MOST, st.integers(1, 4))
def test_parts_are_about_equal_and_miss_no_row(start: int, n: int, most: int, times: int) -> None:
    """None longer than wanted, a multiple of as many as wanted."""
    found = list(parts(slice(start, start + n), most, times))
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(start, start + n))
    lengths = [part.stop - part.start for part in found]
    assert len(lengths) % times == 0 or len(lengths) == n
    assert 0 not in lengths
    assert all(max(lengths) - length <= 1 for length in lengths)
    assert max(lengths, default=0) <= most


@given(LENGTHS, st.data(), MOST, st.integers(1, 4))
def test_every_row_is_in_one_run_and_large_requests_share_none(
    lengths: list[int], data: st.DataObject, most: int, threads: int
) -> None:
    """In order, of any part of a batch; none is empty, and none has more than a thread's part of the rows."""
    ends = ends_of(lengths)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, int(ends[-1]))] * 2)))
    shared_rows = data.draw(st.integers(0, 50))
    found = chunks(slice(start, stop), ends, shared_rows, most, threads)
    assert [row for chunk in found for row in range(chunk.start, chunk.stop)] == list(range(start, stop))
    assert all(chunk.stop - chunk.start <= most for chunk in found)
    assert all(0 < chunk.stop - chunk.start <= -(-(stop - start) // threads) for chunk in found)
    for chunk in found:
        owners = np.unique(np.searchsorted(ends, range(chunk.start, chunk.stop), side="right"))
        cut = [min(int(ends[at]), stop) - max(int(ends[at]) - lengths[at], start) for at in owners]
        assert len(owners) <= 1 or max(cut) <= shared_rows


def test_small_requests_between_large_ones_share_runs() -> None:
    """As many as lie side by side."""
    ends = ends_of([5, 5, 60, 5, 60, 60, 5, 5, 5])
    found = chunks(slice(0, 210), ends, 20, 40, 1)
    assert [(chunk.start, chunk.stop) for chunk in found] == [
        (0, 10), (10, 40), (40, 70), (70, 75), (75, 105), (105, 135), (135, 165), (165, 195), (195, 210),
    ]  # fmt: skip


@given(LENGTHS, st.data())
def test_each_row_gets_its_own_user(lengths: list[int], data: st.DataObject) -> None:
    """One row for all of a chunk's where it is the same for all."""
    ends = ends_of(lengths)
    users = {"a": np.arange(len(lengths)), "b": np.arange(2 * len(lengths)).reshape(-1, 2)}
    start = data.draw(st.integers(0, int(ends[-1]) - 1))
    stop = data.draw(st.integers(start + 1, int(ends[-1])))
    owner = [at for at, (begin, end) in enumerate(pairwise([0, *ends])) for _ in range(begin, end)]
    for name, rows in spread(users, ends, slice(start, stop)).items():
        expected = users[name][owner[start:stop]]
        if len(rows) == 1 < stop - start:
            assert len(set(owner[start:stop])) == 1
        np.testing.assert_array_equal(np.broadcast_to(rows, expected.shape), expected)
