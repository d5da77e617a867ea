"""How large the tables of a version are, in the memory that there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.budget import KEPT_BYTES, KNOWN_BYTES, LEAST_SCRATCH, RESERVE, Need, Share, enough, grown, sized
from service.bundle.errors import BundleError

MIB = 2**20
WHOLE = 64 * MIB


def need(items: int, *, row_bytes: int = 1024, shareable: bool = False) -> Need:
    """Of a version with so many items."""
    return Need(items, row_bytes, 256, shareable)


def counted(share: Share, row_bytes: int, items: int) -> int:
    """Bytes of a worker's own, counted from the rows."""
    rows = share.scratch + share.pool + (items if share.resident and not share.shared else 0)
    return rows * row_bytes + share.pool * KEPT_BYTES + items * KNOWN_BYTES


def test_a_catalogue_that_fits_is_resident() -> None:
    """With room for as many changed items."""
    share = sized(need(1000), WHOLE, WHOLE, 2)
    assert (share.resident, share.pool, share.scratch, share.shared) == (True, 1000, 256, 0)
    assert share.own == counted(share, 1024, 1000)


def test_one_that_does_not_is_held_on_demand() -> None:
    """In all that is free but the reserve, the same in every worker."""
    share = sized(need(100_000), WHOLE, WHOLE, 2)
    assert not share.resident
    assert share.own == counted(share, 1024, 100_000)
    assert WHOLE - WHOLE // RESERVE - 4096 <= share.bytes(2) <= WHOLE - WHOLE // RESERVE


@given(st.integers(1, 10**7), st.integers(4, 20_000), st.integers(LEAST_SCRATCH, 2048), st.integers(0, 4000))
def test_a_table_that_is_asked_for_is_had(items: int, row: int, scratch: int, more: int) -> None:
    """Row by row, unless there is room for all; the pool is no smaller than the scratch rows."""
    free = enough(items, row, scratch, scratch + more)
    share = sized(Need(items, row, scratch), free, 2**60, 1)
    assert share.bytes(1) <= free - free // RESERVE
    assert share.resident or (share.scratch, share.pool) == (scratch, min(scratch + more, 2 * items))


def test_what_is_shared_counts_once() -> None:
    """So a catalogue that fits only once is resident where workers can share it."""
    large = need(40_000)
    assert not sized(large, WHOLE, WHOLE, 2).resident
    share = sized(need(40_000, shareable=True), WHOLE, WHOLE, 2)
    assert (share.resident, share.shared) == (True, 40_000 * 1024)
    assert share.own == counted(share, 1024, 40_000)
    assert share.bytes(2) == share.shared + 2 * share.own <= WHOLE


def test_a_table_never_grows_beyond_its_most() -> None:
    """There is no use for more rows; nor are more asked of the system than the whole is good for."""
    share = sized(need(1000), 4 * MIB, WHOLE, 1)
    assert grown(share, 1024, 2**40, 0, 1).pool == share.most == 1000
    assert sized(need(10**6), WHOLE, WHOLE, 2).most * 2 * 1024 < WHOLE


def test_the_smallest_table_has_few_scratch_rows() -> None:
    """Where there is no room for more; and where there is none for those, the version is refused."""
    share = sized(need(1000), 100 * 1024, WHOLE, 1)
    assert (share.resident, 16 <= share.scratch < 256) == (False, True)
    assert share.bytes(1) <= 100 * 1024
    with pytest.raises(BundleError, match=r"takes .* MiB in each of 2 workers, .*; raise state_mib"):
        sized(need(1000), 20 * 1024, WHOLE, 2)
