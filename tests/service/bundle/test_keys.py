"""Keys of one and more parts, against a dict of tuples."""

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import strings
from service.bundle.errors import FeatureError
from service.bundle.keys import DENSE, KeyIndex, NumberIndex
from service.bundle.pieces import PIECE

part = st.text("ab", max_size=3)


@given(data=st.data(), parts=st.integers(1, 3))
def test_as_a_dict(data: st.DataObject, parts: int) -> None:
    """A key's row is its place; any other combination of parts is unknown."""
    key = st.tuples(*[part] * parts)
    keys = data.draw(st.lists(key, unique=True, max_size=12))
    asked = data.draw(st.lists(st.sampled_from(keys) | key if keys else key, max_size=12))
    index = KeyIndex("t", [strings(key[at] for key in keys) for at in range(parts)])
    rows = index.rows(*(index.codes(at, [key[at] for key in asked]) for at in range(parts)))
    assert rows.dtype == np.int32
    assert rows.tolist() == [keys.index(key) + 1 if key in keys else 0 for key in asked]


def test_one_user_with_many_items() -> None:
    """Codes of parts are broadcast: one of the request against one each of its candidates."""
    index = KeyIndex("t", [strings("uuv"), strings("abb")])
    assert index.rows(index.codes(0, ["u"]), index.codes(1, ["b", "c", "a"])).tolist() == [2, 0, 1]


@given(st.sets(st.integers(0, 50) | st.integers(0, 4 * DENSE), max_size=20), st.integers(0, 4 * DENSE))
def test_number_index(numbers: set[int], other: int) -> None:
    """Small numbers in a table and large ones by search: the same answers, beyond the greatest too."""
    ascending = sorted(numbers)
    rows = np.arange(len(ascending))[::-1] + 1
    index = NumberIndex(np.array(ascending, np.int64), rows)
    asked = [*ascending, other, 0, 5 * DENSE]
    expected = [int(rows[ascending.index(number)]) if number in numbers else 0 for number in asked]
    assert index.rows(np.array([asked])).tolist() == [expected]


def test_nothing_lets_go_of_many_values_at_once() -> None:
    """A part whose values come again is numbered anew; one call of C for it would keep the GIL meanwhile."""
    cleared: list[int] = []

    def look(frame: FrameType, event: str, of: Any) -> None:
        if event == "c_call" and of.__name__ == "clear":
            cleared.append(len(of.__self__))

    parts = [strings(map(str, numbers)) for numbers in np.divmod(np.arange(3 * PIECE), 2 * PIECE)]
    sys.setprofile(look)
    try:
        index = KeyIndex("t", parts)
    finally:
        sys.setprofile(None)
    assert index.rows(index.codes(0, ["1"]), index.codes(1, ["5"])).tolist() == [2 * PIECE + 6]
    assert max(cleared, default=0) <= PIECE


def test_refusals() -> None:
    """Keys that would not name one row are refused, by the table's name."""
    with pytest.raises(FeatureError, match=r"^t: 2 keys come more than once"):
        KeyIndex("t", [strings("aaa")])
    with pytest.raises(FeatureError, match="1 keys come more than once"):
        KeyIndex("t", [strings("aab"), strings("xxy")])
    with pytest.raises(FeatureError, match="key is missing"):
        KeyIndex("t", [strings(["a", None])])
    with pytest.raises(FeatureError, match=r"parts of \[1, 2\] values"):
        KeyIndex("t", [strings("a"), strings("ab")])
    many = strings(map(str, range(2**16)))
    with pytest.raises(FeatureError, match="use fewer parts"):
        KeyIndex("t", [many] * 4)
