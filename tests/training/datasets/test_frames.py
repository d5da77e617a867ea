"""What becomes of the columns of a file."""

from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Column, Lists, Numbers, Texts, as_texts, column_of
from service.bundle.errors import FeatureError
from service.bundle.spelling import text
from training.datasets.frames import Frame

CELLS = (
    "true", "True", "FALSE", "maybe", "1", "1.0", "0", "12.00", "A2", "007", "1.10", "1.1", "2.5", "", "-3.0",
    "9007199254740993",
)  # fmt: skip


def column(*values: object, separator: str | None = None) -> Column:
    """What becomes of a column of these values."""
    separators = {} if separator is None else {"x": separator}
    return Frame("log.csv", pd.DataFrame({"x": list(values)}), separators).column("x")


def values(column: Column) -> list[object]:
    """Its values, None where one is missing."""
    return [column.at(row) for row in range(len(column))]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["1", "2", None], [1.0, 2.0, None]),
        (["3.0", "-4.50", "1e-05"], [3.0, -4.5, 1e-05]),
        (["true", "False", None], [1.0, 0.0, None]),
        (["007", "8"], ["007", "8"]),
        (["1e5", "22"], ["1e5", "22"]),
        (["1.1", "1.10", "2"], ["1.1", "1.10", "2"]),
        (["59.90", "12.00", "7.5"], [59.9, 12.0, 7.5]),
        (["3", "3.0"], [3.0, 3.0]),
        (["9007199254740993", "1"], ["9007199254740993", "1"]),
        (["1.5", "?"], ["1.5", "?"]),
        (["nan", "inf"], ["nan", "inf"]),
        ([None, None], [None, None]),
    ],
)
def test_a_column_is_numbers_only_where_no_spelling_is_lost(
    given: list[str | None], found: list[object]
) -> None:
    """Codes with leading zeros, versions, and integers that float64 does not have stay texts."""
    assert values(column(*given)) == found


def test_an_id_is_the_same_with_and_without_a_decimal_point() -> None:
    """A column of integers with holes comes out of other tools as 3.0; a request says 3."""
    assert as_texts(column("3.0", None), "x").tolist() == as_texts(column("3", None), "x").tolist()


@given(
    st.lists(st.one_of(st.integers(1 - 2**53, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False)))
)
def test_numbers_are_read_as_they_were_written(numbers: list[float]) -> None:
    """As Python writes them, each alone and all together."""
    assert values(column(*map(repr, numbers))) == [float(number) for number in numbers]


def test_lists_are_cut_at_their_separator() -> None:
    """Without the space around it; nothing but separators is an empty one, as is a missing one."""
    found = column("a| b", "c", "", None, "|", separator="|")
    assert isinstance(found, Lists)
    assert values(found) == [["a", "b"], ["c"], [], [], []]


CATEGORIES = [cell for cell in CELLS if cell not in ("1.10", "")]


@given(st.lists(st.sampled_from(CATEGORIES), min_size=1), st.lists(st.sampled_from(CATEGORIES)))
def test_a_category_is_spelled_by_itself(cells: list[str], others: list[str]) -> None:
    """Whatever stands beside it in the log; and a request that sends the same is read the same."""
    found = as_texts(column(*cells, *others), "x")[: len(cells)].tolist()
    assert found == [as_texts(column(cell), "x")[0] for cell in cells]
    assert found == as_texts(column_of(cells, "x"), "x").tolist()
    assert found == [as_texts(column_of([cell], "x"), "x")[0] for cell in cells]


@pytest.mark.parametrize(
    ("cell", "sent"),
    [
        ("true", [True, "true", "True", 1, 1.0, "1", "1.0"]),
        ("False", [False, "false", "False", 0, "0", "0.0"]),
        ("1.0", [1, 1.0, "1", "1.0", "1.00", True]),
        ("3", [3, 3.0, "3", "3.0"]),
        ("2.5", [2.5, "2.5"]),
        ("007", ["007"]),
    ],
)
@pytest.mark.parametrize("beside", [(), ("maybe",), ("5",), ("1.10", "1.1"), (None,)])
def test_a_request_agrees_with_the_log(cell: str, sent: list[object], beside: tuple[str | None, ...]) -> None:
    """However it is written in JSON."""
    trained = as_texts(column(cell, *beside), "x")[0]
    for value in sent:
        assert as_texts(column_of([value], "x"), "x")[0] == trained  # type: ignore[list-item]


@given(st.lists(st.sampled_from(CELLS[:-3]), min_size=1), st.randoms())
def test_an_id_is_spelled_by_itself(cells: list[str], chance: random.Random) -> None:
    """As it stands but for 3.0, whatever the other ids are: never a truth, never another decimal."""
    chance.shuffle(cells)
    frame = Frame("log.csv", pd.DataFrame({"id": cells}), {})
    assert frame.ids("id").tolist() == [cell[:-2] if cell in ("1.0", "-3.0") else cell for cell in cells]


def test_ids_of_parquet_are_spelled_as_those_of_a_csv() -> None:
    """Integers exactly, floats of integers without their point; a missing one is None."""
    kinds = {
        "whole": pd.array([2**60 + 1, None], dtype="Int64"),
        "real": [3.0, math.nan],
        "text": ["1.10", None],
        "truth": pd.array([True, None], dtype="boolean"),
    }
    frame = Frame("log.parquet", pd.DataFrame(kinds), {})
    assert [frame.ids(name).tolist() for name in kinds] == [
        [str(2**60 + 1), None], ["3", None], ["1.10", None], ["true", None],
    ]  # fmt: skip


def test_an_id_must_be_there() -> None:
    """How many rows have none is said."""
    frame = Frame("log.csv", pd.DataFrame({"id": ["1", None, None]}), {})
    with pytest.raises(FeatureError, match=r"^log.csv: column 'id' has no id in 2 of 3 rows"):
        frame.whole("id", frame.ids("id"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": 1}, "holds mappings"),
        ([[1]], r"holds \[1\], a list"),
        ([("a", 1)], r"holds \('a', 1\), a tuple"),
        ([b"a"], "holds b'a', a bytes"),
        ([1.0, math.inf], "holds an infinite number"),
        (np.array([-math.inf]), "holds an infinite number"),
        (math.inf, "holds an infinite number"),
    ],
)
def test_what_a_parquet_file_can_hold_and_a_feature_cannot(value: object, shown: str) -> None:
    """Named by its file and column."""
    with pytest.raises(FeatureError, match=f"^log.csv: column 'x' {shown}; only texts"):
        column(value)


def test_nothing_in_a_list_is_left_out() -> None:
    """NaN is no category."""
    found = column([1.0, math.nan, None], np.array([2.0, math.nan]), [True, "3.0"], None)
    assert values(found) == [["1"], ["2"], ["1", "3"], []]


def test_a_list_is_no_id() -> None:
    """Nor a part of a key."""
    frame = Frame("log.csv", pd.DataFrame({"id": ["a|b"]}), {"id": "|"})
    for read in (frame.ids, frame.texts):
        with pytest.raises(FeatureError, match=r"column 'id' is an id, and dataset\.lists says"):
            read("id")


def test_what_is_neither_number_nor_text_is_shown() -> None:
    """By its value and its kind."""
    with pytest.raises(FeatureError, match=r"^log.csv: column 'x' holds b'a', a bytes; only texts"):
        column(b"a")


def test_equal_texts_are_one_string() -> None:
    """A log repeats its ids: neither time nor memory for one a row."""
    found = column(*["".join(["a", "b"]) for _ in range(10)])
    assert isinstance(found, Texts)
    assert len(set(map(id, found.values))) == 1
    assert text(3.0) == "3"
    assert isinstance(column("1"), Numbers)
