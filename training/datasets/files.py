"""CSV and Parquet files of a folder. Knows no log, and not what stands in the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from service.bundle.errors import FeatureError
from training.datasets.frames import Frame
from training.datasets.lines import check_once, check_rows, reading

PARQUET: Final = (".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Folder:
    """Where files lie, and how they are written.

    Attributes:
        path: of the folder.
        delimiter: of a CSV.
        missing: what stands for a missing value in a CSV, beside an empty one.
        separators: of columns whose texts are lists, by column.
    """

    path: Path
    delimiter: str
    missing: Sequence[str]
    separators: Mapping[str, str]

    def read(self, pattern: str, wanted: Sequence[str], *, whole: bool = False) -> Frame:
        """The wanted columns, or with `whole` every column, of the files that a pattern names.

        Raises:
            FileNotFoundError: there is no such file.
            FeatureError: a file is not to be read, or has no such column.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(f"--data {self.path}: is no folder; give the one that {pattern} lies in")
        files = sorted(self.path.glob(pattern))
        if not files:
            there = ", ".join(sorted(file.name for file in self.path.iterdir())[:20]) or "nothing"
            raise FileNotFoundError(f"{self.path}: there is no {pattern}; the folder has {there}")
        check_once(files)
        frames = [self._read(file, list(dict.fromkeys(wanted)), whole) for file in files]
        return Frame(pattern, pd.concat(frames, ignore_index=True), self.separators)

    def _read(self, file: Path, wanted: list[str], whole: bool) -> pd.DataFrame:
        is_parquet = file.suffix in PARQUET
        with reading(file):
            there = _parquet_columns(file) if is_parquet else self._csv(file, nrows=0).columns
            if absent := [name for name in wanted if name not in there]:
                raise FeatureError(
                    file.name,
                    f"has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, there))}"
                    + (f"; is dataset.delimiter = {self.delimiter!r} right?" if len(there) == 1 else ""),
                )
            if is_parquet:
                columns = None if whole else wanted
                return pd.read_parquet(file, columns=columns, dtype_backend="numpy_nullable")
            check_rows(file, self.delimiter)
            frame = self._csv(file)
            return frame if whole else frame[wanted]

    def _csv(self, file: Path, **how: Any) -> pd.DataFrame:
        return pd.read_csv(
            file,
            sep=self.delimiter,
            dtype=str,
            keep_default_na=False,  # NA is a country
            na_values=["", *self.missing],
            encoding="utf-8-sig",  # spreadsheets put a mark before the header
            **how,
        )


def _parquet_columns(file: Path) -> list[str]:
    try:
        from pyarrow import parquet  # some 170 MB, which a CSV does without
    except ImportError:
        raise FeatureError(file.name, "Parquet needs pyarrow: pip install 'rankserve[parquet]'") from None
    return list(parquet.read_schema(file).names)
