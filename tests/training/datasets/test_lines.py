"""A CSV of which a part would vanish without a word."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.errors import FeatureError
from training.datasets.lines import check_rows, reading

HEADER = "u,i,t,y\n"


def check(folder: Path, content: str, **how: object) -> None:
    """As a reader checks a file."""
    path = folder / "log.csv"
    path.write_bytes(content.encode())
    with reading(path, "is no log"):
        check_rows(path, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,a,5,0\n2,b\n", "line 3 has 2 values, and the header 4 names"),
        ("1,a,5,0\n\n2,b,5,0,9\n", "line 4 has 5 values, and the header 4 names"),
        ('1,"a\nb",5,0\n2,b,5\n', "line 4 has 3 values"),
        ('1,"a,5,0\n2,b,5,1\n', "line 2: unexpected end of data; is a quote left open"),
        ('1,"a,5,0\n2,b,5,1\n3,"c",5,1\n', "line 2: .* is a quote left open"),
        ('1,"a,5,0\n2,b,5,1\n3,c",5,1\n', "line 2: a quote is open over whole rows"),
        ('1,a,5,0\n1,"a"b,5,0\n', "line 3: .* or not doubled"),
    ],
)
def test_what_would_vanish_is_named(tmp_path: Path, rows: str, message: str) -> None:
    """By file and line."""
    with pytest.raises(FeatureError, match=f"^log.csv: is no log: {message}"):
        check(tmp_path, HEADER + rows)


def test_a_header_names_each_column_once(tmp_path: Path) -> None:
    """Columns without a name are none that a config can read."""
    with pytest.raises(FeatureError, match="the header names 'y' more than once"):
        check(tmp_path, "u,y,i,y\n1,1,1,1\n")
    check(tmp_path, "u,,i,\n1,1,1,1\n")


def test_columns_that_must_be_filled(tmp_path: Path) -> None:
    """The line that has none is named."""
    with pytest.raises(FeatureError, match="line 3 has no i; leave such rows out"):
        check(tmp_path, HEADER + "1,a,5,0\n2,,5,0\n", filled=("u", "i", "elsewhere"))


def test_without_a_header_all_rows_are_alike(tmp_path: Path) -> None:
    """As long as the first."""
    with pytest.raises(FeatureError, match="line 2 has 1 values, and the first one 2"):
        check(tmp_path, "1,1\n1\n", header=False)
    check(tmp_path, "1,1\n1,1\n", header=False)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")) | st.text(',"a;\n')
LINES = CELLS.map(lambda cell: cell.replace(",", "") if "\n" in cell else cell)


@given(st.lists(st.lists(LINES, min_size=4, max_size=4)))
def test_whatever_is_written_well_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    """Delimiters, quotes and line breaks in values too, and gzipped."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["u", "i", "t", "y"], *rows])
    path = tmp_path_factory.mktemp("log") / "log.csv.gz"
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    check_rows(path)
