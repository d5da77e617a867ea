"""What stands in the columns of a file, as raw values. Knows no log, and not where the file came from.

Each value is spelled by itself, as a request would say it: whatever else stands in its column, or in that of
another file, it stays the same id and the same category.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from service.bundle.columns import Column, Lists, Numbers, Strings, Texts, strings
from service.bundle.errors import FeatureError
from service.bundle.spelling import text

PLAIN_NUMBER: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]\d+)?")
"""a number in its usual spelling: 007, +7 and 1e5 are more likely codes"""

WHOLE: Final = re.compile(r"-?[1-9][0-9]*\.0|0\.0")
"""an integer as tools write it that know no integers with holes among them"""

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
        """A column of categories or numbers: lists, numbers where all of its values are some, or else texts.

        A feature reads texts and numbers as either, so that only the spelling matters, which is `text`'s: 3.0
        is 3, as a request would say, and true is 1; 007 stays 007, and so does 1.10 beside 1.1.

        Raises:
            FeatureError: a value is none of these.
        """
        values, separator = self.data[name], self.separators.get(name)
        if separator is not None:
            pieces = ([] if pd.isna(value) else str(value).split(separator) for value in values)
            return Lists.of([text(piece.strip()) for piece in row if piece.strip()] for row in pieces)
        with self._named(name):
            if values.dtype == object and values.map(_is_list).any():
                return Lists.of(list(filter(None, map(_spelled, _items(value)))) for value in values)
            codes, known = pd.factorize(values)
            numbers = _numbers(known)
            if numbers is not None:
                return Numbers(np.append(numbers, np.nan)[codes])  # NaN last: a missing one has the code -1
            return Texts(strings([*map(_spelled, known), None])[codes])

    def texts(self, name: str) -> Strings:
        """A column of a key, spelled as a category is; None is missing. Raises FeatureError for a list."""
        return self._each(name, _spelled)

    def ids(self, name: str) -> Strings:
        """A column of users' or items' ids, each as it stands, but for 3.0, which is 3; None is missing.

        Raises:
            FeatureError: a value is no id.
        """
        return self._each(name, _id)

    def whole(self, name: str, ids: Strings) -> Strings:
        """The ids of a column. Raises FeatureError where one is missing."""
        if missing := int((ids == None).sum()):  # noqa: E711  # elementwise
            raise FeatureError(
                self.file,
                f"column {name!r} has no id in {missing:,} of {len(self):,} rows; leave such rows out",
            )
        return ids

    def _each(self, name: str, spelled: Callable[[Any], str | None]) -> Strings:
        if name in self.separators:
            raise FeatureError(
                self.file, f"column {name!r} is an id, and dataset.lists says that it holds lists"
            )
        with self._named(name):
            codes, known = pd.factorize(self.data[name])
            each: Strings = strings([*map(spelled, known), None])[codes]
        return each

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """A value that is of no kind becomes a FeatureError with its file and column."""
        try:
            yield
        except TypeError as error:
            odd = "holds mappings" if "unhashable" in str(error) else str(error)
            raise FeatureError(
                self.file, f"column {name!r} {odd}; only texts, numbers, times and flat lists are read"
            ) from None


def _numbers(known: Any) -> NDArray[np.float64] | None:
    """Distinct values as numbers, or None where they are something else."""
    if pd.api.types.is_numeric_dtype(known):  # of Parquet; booleans are numeric
        numbers = np.asarray(known, dtype=np.float64)
        if np.isinf(numbers).any():
            raise TypeError("holds an infinite number")
        exact = not pd.api.types.is_integer_dtype(known) or (np.abs(numbers) < EXACT).all()
        return numbers if exact else None
    if not all(isinstance(value, str) for value in known):
        return None
    spelled = [text(value) for value in known]
    if all(map(PLAIN_NUMBER.fullmatch, spelled)):
        numbers = np.array(spelled, dtype=np.float64)
        whole = np.array([value.lstrip("-").isdigit() for value in known], bool)
        told = np.isfinite(numbers).all() and (np.abs(numbers[whole]) < EXACT).all()
        return numbers if told and _differ(numbers[numbers % 1 != 0]) else None
    return None


def _differ(numbers: NDArray[np.float64]) -> bool:
    """Is no number there twice? Distinct spellings that are one, 1.1 and 1.10, are versions or sections."""
    return len(np.unique(numbers)) == len(numbers)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)


def _items(value: Any) -> list[Any]:
    """What stands in a list of Parquet; nothing in a missing one."""
    return [item for item in value if item is not None] if _is_list(value) else []


def _id(value: Any) -> str | None:
    """An id's text. Raises TypeError for a value that has none."""
    if isinstance(value, str):
        return value[:-2] if WHOLE.fullmatch(value) else value
    return str(value).lower() if isinstance(value, bool | np.bool_) else _spelled(value)


def _spelled(value: Any) -> str | None:
    """A value's text, None for NaN. Raises TypeError for one that has none."""
    if isinstance(value, str | int):
        return text(value)
    if isinstance(value, np.bool_ | np.integer):
        return text(int(value))
    if isinstance(value, float | np.floating):
        if math.isinf(value):
            raise TypeError("holds an infinite number")
        return None if math.isnan(value) else text(float(value))
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"holds {repr(value)[:60]}, a {type(value).__name__}")
