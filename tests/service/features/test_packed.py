"""Rows as bytes, and bytes that are none."""

from contextlib import suppress
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.features.packed import MOST_BYTES, CorruptRow, RowTooLarge, are_small, pack, unpack
from service.features.store import Row
from tests.service.features.test_stores import FIELDS

NO_FIELDS: tuple[Any, ...] = (
    [1], {"a": {}}, {"a": [[1]]}, {"a": [None]}, {"a": b"x"}, ["v1"], ["v1", []], [1, {}], ["v1", {}, {}]
)  # fmt: skip
PACKED = pack(Row(1_700_000_000_000, {"author": "a", "tags": ["x"]}))


@given(st.integers(0, 2**64 - 1), FIELDS, st.none() | st.text(max_size=9))
def test_a_row_comes_back(stamp_ms: int, fields: dict[str, object], version: str | None) -> None:
    """Stamp, fields with values of the same types, and whose table it is of."""
    row = unpack(pack(Row(stamp_ms, fields, version)))  # type: ignore[arg-type]
    assert row == Row(stamp_ms, fields, version)  # type: ignore[arg-type]
    assert list(map(type, row.fields.values())) == list(map(type, fields.values()))


def test_an_earlier_row_has_smaller_bytes_behind_the_magic_number() -> None:
    """So a store can tell which of two is the later one, without reading the fields."""
    stamps = [0, 1, 255, 256, 2**40, 2**53]
    packed = [pack(Row(stamp, {}))[4:12] for stamp in stamps]
    assert packed == sorted(packed)


def test_a_row_of_no_version_is_as_it_always_was() -> None:
    """What was written before rows could be a version's own is read as before."""
    before = b"RSF\x01" + (7).to_bytes(8) + ormsgpack.packb({"length": 3.5})
    assert pack(Row(7, {"length": 3.5})) == before
    assert unpack(before) == Row(7, {"length": 3.5}, None)


def test_a_row_has_a_greatest_size() -> None:
    """One more byte is refused when it is written and when it is read."""
    room = MOST_BYTES - len(pack(Row(1, {"a": "x" * 60_000}))) + 60_000
    largest = pack(Row(1, {"a": "x" * room}))
    assert (len(largest), unpack(largest).stamp_ms) == (MOST_BYTES, 1)
    with pytest.raises(RowTooLarge, match="takes 65,537 bytes, and a row has 65,536; shorten its lists"):
        pack(Row(1, {"a": "x" * (room + 1)}))
    with pytest.raises(CorruptRow, match="65,537 bytes are more"):
        unpack(largest + b"x")


@given(st.lists(st.integers(0, MOST_BYTES + 9), min_size=1, max_size=3))
def test_rows_that_are_small_together_are_none_too_large(lengths: list[int]) -> None:
    """And those that are not may be small enough each."""
    rows = [Row(1, {"a": "x" * length}) for length in lengths]
    if are_small(rows):
        assert all(len(pack(row)) <= MOST_BYTES for row in rows)
    else:
        assert sum(lengths) > MOST_BYTES - 40


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: PACKED[:12] + tail))
def test_any_bytes_are_a_row_or_corrupt(packed: bytes) -> None:
    """No other error, whatever they are."""
    with suppress(CorruptRow):
        assert isinstance(unpack(packed), Row)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"", "too short"),
        (PACKED[:11], "too short"),
        (PACKED[:-1], "cannot be read"),
        (b"RSF\x02" + PACKED[4:], "another format"),
        (b'{"author": "a"}', "another format"),
        *((PACKED[:12] + ormsgpack.packb(fields), "no mapping") for fields in NO_FIELDS),
    ],
)
def test_the_reason_is_told(packed: bytes, reason: str) -> None:
    """What is wrong with the bytes."""
    with pytest.raises(CorruptRow, match=reason):
        unpack(packed)
