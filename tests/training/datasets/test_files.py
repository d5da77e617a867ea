"""CSV and Parquet files as columns of raw values."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from service.bundle.columns import as_texts
from service.bundle.errors import FeatureError
from tests.training.datasets.test_frames import values
from training.datasets.files import Folder

ZIPPED = gzip.compress(b"id,x\n" + b"".join(b"%d,%d\n" % (at, at * at) for at in range(500)))


def folder(path: Path, **how: object) -> Folder:
    """A folder of plain CSV files."""
    return Folder(path, **{"delimiter": ",", "missing": (), "separators": {}} | how)  # type: ignore[arg-type]


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


def test_a_file_that_lies_beside_itself_is_named(tmp_path: Path) -> None:
    """Gzipped and not, a pattern would read it twice."""
    (tmp_path / "log_1.csv").write_text("id,x\n1,2\n", encoding="utf-8")
    (tmp_path / "log_1.csv.gz").write_bytes(ZIPPED)
    with pytest.raises(FeatureError, match=r"^log_1.csv: lies beside log_1.csv.gz, .* keep one"):
        folder(tmp_path).read("log_*", ["id"])
    assert len(folder(tmp_path).read("log_1.csv", ["id"])) == 1


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
        ("log.csv", b"id,x\n1,2,3\n", "cannot be read: line 2 has 3 values, and the header 2 names"),
        ("log.csv", b"id,x\n1,\xe9\n", "is not written in UTF-8"),
        ("log.parquet", b"id,x\n1,2\n", "cannot be read: Parquet magic bytes not found"),
        ("log.parquet", b"PAR1\x15\x00xxxx\x06\x00\x00\x00PAR1", "cannot be read: "),
        ("log.csv.gz", b"id,x\n1,2\n", "is not gzipped, as its name says, or damaged"),
        ("log.csv.gz", ZIPPED[: len(ZIPPED) // 2], "is damaged or cut off"),
        ("log.csv.gz", ZIPPED[:40] + bytes(20) + ZIPPED[60:], "is (not gzipped|damaged)"),
    ],
    ids=[
        "empty",
        "ragged",
        "shifted",
        "latin-1",
        "no parquet",
        "torn parquet",
        "plain",
        "cut off",
        "damaged",
    ],
)
def test_a_file_that_is_something_else_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """By its name and what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeatureError, match=f"(?s)^{name}: {message}"):
        folder(tmp_path).read(name, ["id"])
