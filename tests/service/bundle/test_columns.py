"""Raw columns: one spelling, one meaning a value, and tables by key."""

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.bundle.columns import (
    Column,
    Lists,
    Numbers,
    Texts,
    Value,
    Vectors,
    as_lists,
    as_numbers,
    as_texts,
    as_vectors,
    column_of,
    strings,
)
from service.bundle.errors import FeatureError
from service.bundle.spelling import text
from service.bundle.table import Table

any_text = st.text(st.characters(exclude_categories=()), max_size=8)
numbers = st.integers() | st.floats()
singles = st.none() | st.booleans() | numbers | any_text | st.sampled_from(["3", " 4.5", "nan", "1e999", ""])
values = singles | st.lists(st.booleans() | numbers | any_text, max_size=3)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (3, "3"),
        (3.0, "3"),
        ("3", "3"),
        (-0.0, "0"),
        (True, "1"),
        (2.5, "2.5"),
        ("3.0", "3"),
        ("-12.00", "-12"),
        ("0.0", "0"),
        ("-0.0", "-0.0"),
        ("003.0", "003.0"),
        ("1.10", "1.10"),
        ("10", "10"),
        ("true", "1"),
        ("FALSE", "0"),
        ("tRUE", "tRUE"),
        (2**60 + 1, str(2**60 + 1)),
        ("", ""),
    ],
)
def test_one_spelling(value: str | float, spelled: str) -> None:
    """An id is the same however its number was written."""
    assert text(value) == spelled


def test_kind_of_column() -> None:
    """Numbers alone are numbers, lists make lists, and all else is text."""
    assert isinstance(column_of([1, 2.5, None], "f"), Numbers)
    assert isinstance(column_of([1, "a", None], "f"), Texts)
    assert isinstance(column_of([True], "f"), Texts)
    assert isinstance(column_of([None, ["a"], "b"], "f"), Lists)
    nothing = column_of([], "f")
    assert isinstance(nothing, Numbers)
    assert len(nothing) == 0


def meaning(column: Column, row: int) -> list[Any]:
    """What every reading of a column makes of a row; FeatureError counts as a meaning of its own."""
    readings: list[Callable[[], Any]] = [
        lambda: as_texts(column, "f")[row],
        lambda: as_numbers(column, "f")[row],
        lambda: as_lists(column, "f").at(row),
        lambda: as_vectors(column, 2, "f")[row].tolist(),
    ]
    found = []
    for reading in readings:
        try:
            found.append(repr(reading()))
        except FeatureError:
            found.append("refused")
    return found


@given(value=values, beside=singles)
@example(value=-0.0, beside=False)
def test_value_means_the_same_beside_others(value: Value, beside: Value) -> None:
    """A value is read alike, whatever stands beside it; though a fault beside it may refuse both."""
    try:
        alone = meaning(column_of([value], "f"), 0)
    except FeatureError:
        with pytest.raises(FeatureError):
            column_of([value, beside], "f")
        return
    try:
        together = meaning(column_of([value, beside], "f"), 0)
    except FeatureError:
        return
    for single, joint in zip(alone, together, strict=True):
        assert joint in (single, "refused")


@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        -math.inf,
        [1.0, math.inf],
        2**64,
        -(2**70),
        [2**64],
        {"a": 1},
        [["a"]],
        [None],
        ["a", math.nan],
    ],
)
def test_no_value(value: Any) -> None:
    """What no column can hold is refused by the field's name, alone and beside good values."""
    for column in ([value], [value, "x"], [value, ["x"]], [1, value]):
        with pytest.raises(FeatureError, match=r"^user\.x: ") as raised:
            column_of(column, "user.x")
        assert raised.value.field == "user.x"


def test_big_ids_keep_their_digits() -> None:
    """An integer that float64 would round is no number: as an id it stays itself."""
    big = 2**53 + 1
    assert as_texts(column_of([big], "f"), "f").tolist() == [str(big)]
    assert as_texts(column_of([big, 1], "f"), "f").tolist() == [str(big), "1"]
    assert as_numbers(column_of([big], "f"), "f").tolist() == [float(big)]


def test_missing_is_missing() -> None:
    """None and NaN are the same nothing in every kind of reading."""
    for column in (column_of([None, math.nan], "f"), Texts(strings([None, None]))):
        assert np.isnan(as_numbers(column, "f")).all()
        assert as_texts(column, "f").tolist() == [None, None]
        assert as_lists(column, "f").at(0) == []
        assert np.isnan(as_vectors(column, 2, "f")).all()


@pytest.mark.parametrize("spelled", ["x", "", "1,5", "\0", "\ud800", "9" * 400, "-inf"])
def test_text_that_is_no_number(spelled: str) -> None:
    """Text is read as a number only where it spells a finite one."""
    with pytest.raises(FeatureError, match="number"):
        as_numbers(column_of([spelled], "f"), "f")


def test_vectors() -> None:
    """Lists of the right length are vectors, an empty one is missing, and another length is refused."""
    column = column_of([[1, 2.5], [], None], "f")
    np.testing.assert_array_equal(as_vectors(column, 2, "f"), [[1, 2.5], [np.nan] * 2, [np.nan] * 2])
    np.testing.assert_array_equal(as_vectors(column_of([5], "f"), 1, "f"), [[5.0]])
    for width in (1, 3):
        with pytest.raises(FeatureError, match=f"a vector of {width} numbers, got 2"):
            as_vectors(column, width, "f")
    with pytest.raises(FeatureError, match="a vector of 3 numbers, got 2"):
        as_vectors(Vectors(np.zeros((1, 2), np.float32)), 3, "f")


COLUMNS: list[Column] = [
    Numbers(np.array([1.5, np.nan, 3.0])),
    Texts(strings(["a", None, ""])),
    Lists.of([["a", "b"], [], ["c"]]),
    Vectors(np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32)),
]


@pytest.mark.parametrize("column", COLUMNS)
def test_take_and_pick(column: Column) -> None:
    """`take` counts from 0 and understands masks; `pick` counts from 1 and gives nothing known for 0."""
    cells = [column.at(row) for row in range(3)]
    taken = column.take(np.array([2, 0, 2]))
    assert [taken.at(row) for row in range(3)] == [cells[2], cells[0], cells[2]]
    masked = column.take(np.array([True, False, True]))
    assert [masked.at(row) for row in range(len(masked))] == [cells[0], cells[2]]
    picked = column.pick(np.array([0, 3, 1]))
    assert [picked.at(row) for row in range(3)] == [cells[1], cells[2], cells[0]]
    none = column.take(np.array([], int))
    assert len(none) == 0
    assert [none.pick(np.array([0])).at(0)] == [cells[1]]


def test_a_pick_from_lists_costs_its_rows_and_not_the_table() -> None:
    """A request picks one user's lists out of millions: no array of the table's length is made."""
    column = Lists(strings(["a"] * 100_000), np.arange(100_001))
    tracemalloc.start()
    picked = column.pick(np.array([7, 0]))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (picked.at(0), picked.at(1)) == (["a"], [])
    assert most < column.offsets.nbytes / 10


def test_a_list_is_no_single_value() -> None:
    """Lists are not read as single values by accident."""
    for read in (as_texts, as_numbers):
        with pytest.raises(FeatureError, match="got a list"):
            read(column_of([["a"]], "f"), "f")


def test_table_rows() -> None:
    """Rows are counted from 1, and 0 is unknown: another key, or a missing part of one."""
    table = Table("t", [strings(["a", "b", "a"]), strings(["x", "x", "y"])], {"n": Numbers(np.arange(3.0))})
    assert table.rows(["a", "b", "b", None, "z"], ["y", "x", "y", "x", "x"]).tolist() == [3, 2, 0, 0, 0]
    assert len(table) == 3


def test_table_errors() -> None:
    """A column of another length is refused by name."""
    with pytest.raises(FeatureError, match=r"^t\.n: has 2 values for 1 keys"):
        Table("t", [strings(["a"])], {"n": Numbers(np.zeros(2))})
