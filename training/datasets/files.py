"""CSV and Parquet files as columns of raw values. Knows no log: only files and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from service.bundle.columns import Column, Lists, Numbers, Strings, Texts, as_texts, strings, text
from service.bundle.errors import FeatureError

PARQUET: Final = (".parquet", ".pq")

PLAIN_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]\d+)?")
"""a number in its usual spelling: 007, +7 and 1e5 are more likely codes"""

TRUTH: Final[Mapping[str, float]] = {"true": 1.0, "false": 0.0}

EXACT: Final = 2**53
"""integers from this on are not told from their neighbours in float64"""


@dataclass(frozen=True, slots=True)
class Frame:
    """The columns of one file, or of several one after another.

    Attributes:
        file: its name or pattern, for errors.
        data: as read; a CSV's values are all texts.
        separators: of columns whose texts are lists, by column.
    """

    file: str
    data: pd.DataFrame
    separators: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: NDArray[np.integer]) -> Frame:
        """The given rows, in that order."""
        return Frame(self.file, self.data.iloc[rows], self.separators)

    def column(self, name: str) -> Column:
        """A column by what all of its values are: lists, numbers (true is 1, false 0), or else texts.

        A feature reads texts and numbers as either, so that only the spelling matters: a whole column of 3.0
        is one of 3, as a request would say; 007 stays 007, and so does 1.10 beside 1.1.

        Raises:
            FeatureError: a value is none of these.
        """
        values, separator = self.data[name], self.separators.get(name)
        if separator is not None:
            pieces = ([] if pd.isna(value) else str(value).split(separator) for value in values)
            return Lists.of([piece.strip() for piece in row if piece.strip()] for row in pieces)
        if values.dtype == object and values.map(lambda value: isinstance(value, list | np.ndarray)).any():
            return Lists.of([text(item) for item in _items(value)] for value in values)
        codes, known = pd.factorize(values)
        try:
            numbers = _numbers(known)
            if numbers is not None:
                return Numbers(np.append(numbers, np.nan)[codes])  # NaN last: a missing one has the code -1
            return Texts(strings([*map(_spelled, known), None])[codes])
        except TypeError as error:
            raise FeatureError(self.file, f"column {name!r} {error}") from None

    def keys(self, name: str) -> Strings:
        """A column of ids. Raises FeatureError where one is missing."""
        ids = as_texts(self.column(name), name)
        if missing := int((ids == None).sum()):  # noqa: E711  # elementwise
            raise FeatureError(
                self.file,
                f"column {name!r} has no id in {missing:,} of {len(self):,} rows; leave such rows out",
            )
        return ids


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
        frames = [self._read(file, list(dict.fromkeys(wanted)), whole) for file in files]
        return Frame(pattern, pd.concat(frames, ignore_index=True), self.separators)

    def _read(self, file: Path, wanted: list[str], whole: bool) -> pd.DataFrame:
        try:
            there = _parquet_columns(file) if file.suffix in PARQUET else self._csv(file, nrows=0).columns
            if absent := [name for name in wanted if name not in there]:
                raise FeatureError(
                    file.name,
                    f"has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, there))}"
                    + (f"; is dataset.delimiter = {self.delimiter!r} right?" if len(there) == 1 else ""),
                )
            if file.suffix in PARQUET:
                columns = None if whole else wanted
                return pd.read_parquet(file, columns=columns, dtype_backend="numpy_nullable")
            # Not by `usecols`: rows of more values than the header has names would pass unseen, shifted.
            frame = self._csv(file)
            if not isinstance(frame.index, pd.RangeIndex):
                raise ValueError("rows have more values than the header has names")
            return frame if whole else frame[wanted]
        except UnicodeDecodeError:
            raise FeatureError(file.name, "is not written in UTF-8; convert it") from None
        except FeatureError:
            raise
        except ValueError as error:
            raise FeatureError(file.name, f"cannot be read: {error}") from None

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
        from pyarrow import ArrowInvalid, parquet  # some 170 MB, which a CSV does without
    except ImportError:
        raise FeatureError(file.name, "Parquet needs pyarrow: pip install 'rankserve[parquet]'") from None
    try:
        return list(parquet.read_schema(file).names)
    except ArrowInvalid as error:
        raise FeatureError(file.name, f"cannot be read: {error}") from None


def _numbers(known: Any) -> NDArray[np.float64] | None:
    """Distinct values as numbers, or None where they are something else."""
    if pd.api.types.is_numeric_dtype(known):  # of Parquet; booleans are numeric
        numbers = np.asarray(known, dtype=np.float64)
        return (
            numbers if (np.abs(numbers) < EXACT).all() or not pd.api.types.is_integer_dtype(known) else None
        )
    if not all(isinstance(value, str) for value in known):
        return None
    lowered = [value.lower() for value in known]
    if all(value in TRUTH for value in lowered):
        return np.array([TRUTH[value] for value in lowered], np.float64)
    if all(map(PLAIN_NUMBER.fullmatch, known)):
        numbers = np.array(known, dtype=np.float64)
        whole = np.array([value.lstrip("-").isdigit() for value in known], bool)
        told = np.isfinite(numbers).all() and (np.abs(numbers[whole]) < EXACT).all()
        return numbers if told and _differ(numbers[numbers % 1 != 0]) else None
    return None


def _differ(numbers: NDArray[np.float64]) -> bool:
    """Is no number there twice? Distinct spellings that are one, 1.1 and 1.10, are versions or sections."""
    return len(np.unique(numbers)) == len(numbers)


def _items(value: Any) -> list[Any]:
    """What stands in a list of Parquet; nothing in a missing one."""
    if not isinstance(value, list | np.ndarray):
        return []
    return [item for item in np.asarray(value).tolist() if item is not None]


def _spelled(value: Any) -> str:
    """A value's text. Raises TypeError for one that has none."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return text(int(value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(
        f"holds {value!r}, a {type(value).__name__}; only texts, numbers, times and flat lists are read"
    )
