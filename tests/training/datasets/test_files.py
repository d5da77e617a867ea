"""CSV and Parquet files as columns of raw values."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Column, Lists, Numbers, Texts, as_texts, text
from service.bundle.errors import FeatureError
from training.datasets.files import Folder, Frame


def folder(path: Path, **how: object) -> Folder:
    """A folder of plain CSV files."""
    return Folder(path, **{"delimiter": ",", "missing": (), "separators": {}} | how)  # type: ignore[arg-type]


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


def test_a_csv_may_be_gzipped_and_marked_and_in_pieces(tmp_path: Path) -> None:
    """A pattern reads files in order of their names; a mark before the header is no part of it."""
    (tmp_path / "log_1.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfid,x\n1,NA\n"))
    (tmp_path / "log_2.csv").write_text("x,id,more\n,2,3\n", encoding="utf-8")
    frame = folder(tmp_path).read("log_*", ["id", "x"])
    assert values(frame.column("id")) == [1.0, 2.0]
    assert values(frame.column("x")) == ["NA", None]
    assert list(frame.data.columns) == ["id", "x"]


def test_what_is_missing_and_what_parts_columns_can_be_said(tmp_path: Path) -> None:
    """Other tools write ? and NULL, and tabs."""
    (tmp_path / "log.tsv").write_text("id\tx\n1\t?\n2\tNULL\n3\t4\n", encoding="utf-8")
    frame = folder(tmp_path, delimiter="\t", missing=("?", "NULL")).read("log.tsv", ["x"])
    assert values(frame.column("x")) == [None, None, 4.0]


def test_parquet_keeps_what_a_csv_would_lose(tmp_path: Path) -> None:
    """Ids beyond 2^53 with holes among them, lists, booleans, times."""
    frame = pd.DataFrame(
        {
            "id": pd.array([2**60 + 1, None], dtype="Int64"),
            "tags": [["a", "b"], None],
            "n": [1.5, np.nan],
            "yes": pd.array([True, None], dtype="boolean"),
            "at": pd.to_datetime(["2024-05-01T20:15:00", None]),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    found = folder(tmp_path).read("log.parquet", ["id"], whole=True)
    assert {name: values(found.column(name)) for name in frame} == {
        "id": [str(2**60 + 1), None],
        "tags": [["a", "b"], []],
        "n": [1.5, None],
        "yes": [1.0, None],
        "at": ["2024-05-01T20:15:00", None],
    }


def test_parquet_and_csv_are_read_alike(tmp_path: Path) -> None:
    """The same table from both gives the same texts."""
    frame = pd.DataFrame({"id": [1, 2, 3], "kind": ["a", None, "b"], "n": [0.5, None, 2.0], "ok": [True] * 3})
    frame.to_parquet(tmp_path / "log.parquet")
    frame.to_csv(tmp_path / "log.csv", index=False)
    read = [folder(tmp_path).read(f"log.{kind}", [], whole=True) for kind in ("parquet", "csv")]
    for name in frame:
        one, other = (as_texts(found.column(name), name).tolist() for found in read)
        assert one == other


def test_parquet_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a traceback."""
    (tmp_path / "log.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FeatureError, match=r"log.parquet: Parquet needs pyarrow.*rankserve\[parquet\]"):
        folder(tmp_path).read("log.parquet", ["id"])


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    """In the file that lacks it; a header in one piece may be cut wrongly."""
    (tmp_path / "log.csv").write_text("id;x\n1;2\n", encoding="utf-8")
    with pytest.raises(
        FeatureError, match=r"^log.csv: has no column 'id', 'y'; it has 'id;x'; is .*delimiter"
    ):
        folder(tmp_path).read("log.csv", ["id", "y"])
    with pytest.raises(FeatureError, match=r"^log.csv: has no column 'y'; it has 'id', 'x'$"):
        folder(tmp_path, delimiter=";").read("log.csv", ["id", "y"])


def test_a_missing_file_is_named_with_those_there(tmp_path: Path) -> None:
    """And a folder that is none."""
    (tmp_path / "clicks.csv").write_text("id\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"there is no log\*\.csv; the folder has clicks.csv"):
        folder(tmp_path).read("log*.csv", ["id"])
    with pytest.raises(
        FileNotFoundError, match=r"clicks.csv: is no folder; give the one that log.csv lies in"
    ):
        folder(tmp_path / "clicks.csv").read("log.csv", ["id"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "cannot be read: No columns"),
        ("log.csv", b"id,x\n1,2\n1,2,3\n", "cannot be read: .*line 3"),
        ("log.csv", b"id,x\n1,2,3\n", "cannot be read: rows have more values than the header"),
        ("log.csv", b"id,x\n1,\xe9\n", "is not written in UTF-8"),
        ("log.parquet", b"id,x\n1,2\n", "cannot be read: Parquet magic bytes not found"),
    ],
    ids=["empty", "ragged", "shifted", "latin-1", "no parquet"],
)
def test_a_file_that_is_something_else_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """By its name and what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeatureError, match=f"(?s)^{name}: {message}"):
        folder(tmp_path).read(name, ["id"])


def test_an_id_must_be_there() -> None:
    """How many rows have none is said."""
    frame = Frame("log.csv", pd.DataFrame({"id": ["1", None, None]}), {})
    with pytest.raises(FeatureError, match=r"^log.csv: column 'id' has no id in 2 of 3 rows"):
        frame.keys("id")


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
