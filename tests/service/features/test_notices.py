"""Notices of changes as bytes, and bytes that are none."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli_features import BATCH as LOADED
from service.features.notices import MOST_BYTES, MOST_ROWS, pack, unpack
from service.features.store import Row, RowKey
from tests.service.features.test_stores import FIELDS, KEYS

OF_NO_VERSION = st.builds(Row, st.integers(0, 2**63 - 1), FIELDS, st.none())
ROWS = st.dictionaries(KEYS, OF_NO_VERSION, max_size=6)
KEY, OTHER = ("item", "1"), ("user_tag", "3", "cats")


@given(ROWS)
def test_keys_and_rows_come_back(rows: dict[RowKey, Row]) -> None:
    """In their order, with values of the same types; of the short notice the keys alone."""
    short, whole = pack(rows, 0)
    assert unpack(short) == (list(rows), {})
    keys, brought = unpack(whole)
    assert (keys, brought) == (list(rows), rows)
    assert [[*map(type, row.fields.values())] for row in brought.values()] == [
        [*map(type, row.fields.values())] for row in rows.values()
    ]


def test_a_notice_brings_no_more_than_it_may() -> None:
    """One row or one byte beyond, and it has the keys alone: who loads a table floods nobody."""
    rows = {("item", str(at)): Row(1, {}) for at in range(MOST_ROWS + 1)}
    for count, size, brings in (
        (MOST_ROWS, MOST_BYTES, True),
        (MOST_ROWS + 1, 9, False),
        (1, MOST_BYTES + 1, False),
    ):
        short, whole = pack(dict(islice(rows.items(), count)), size)
        assert (unpack(whole)[1] != {}) == brings
        assert (whole == short) == (not brings)
        assert len(unpack(whole)[0]) == count
    assert MOST_ROWS < LOADED


def test_a_version_s_own_rows_are_not_brought() -> None:
    """They tell other versions nothing, and a whole catalogue of them is written at once."""
    short, whole = pack({KEY: Row(1, {"length": 3.5}), OTHER: Row(1, {}, "v1")}, 0)
    assert unpack(whole) == unpack(short) == ([KEY, OTHER], {})


@pytest.mark.parametrize(
    "notice",
    [
        None, 7, "keys", [], [[], None, 1], [["item"], None], [[["item"]], None], [[["item", 1]], None],
        [[["item", ["1"]]], None], [[["item", "1"]], []], [[["item", "1"]], [[1, {}], [1, {}]]],
        [[["item", "1"]], [[1]]], [[["item", "1"]], [["1", {}]]], [[["item", "1"]], [[True, {}]]],
        [[["item", "1"]], [[1, []]]], [[["item", "1"]], [[1, {"a": {}}]]],
        [[["item", "1"]], [[1, {"a": [[1]]}]]], [["item", "1"]], [["item", "1"], ["item", "2"]],
    ],
)  # fmt: skip
def test_what_is_no_notice_is_refused(notice: Any) -> None:
    """Whoever publishes it: every row is asked for again then."""
    with pytest.raises((TypeError, ValueError)):
        unpack(ormsgpack.packb(notice))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_notice_or_refused(notice: bytes) -> None:
    """No other error, whatever they are."""
    with suppress(TypeError, ValueError):
        keys, rows = unpack(notice)
        assert not rows or list(rows) == keys
