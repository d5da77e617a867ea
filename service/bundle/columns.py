"""Raw feature values: typed columns.

A raw value is what a person would write: a string, a number, a list. Nothing here knows a model.
Columns are read-only by convention: `take` copies, nothing writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import FeatureError
from service.bundle.spelling import text, texts

Value = str | bool | int | float | list[str | int | float] | None
Rows = NDArray[np.int32]
Strings = NDArray[np.object_]

_NUMBERS = frozenset({int, float, type(None)})


def strings(values: Iterable[str | None]) -> Strings:
    """An object array ``[n]`` of the given strings (numpy would make fixed-width text of a list)."""
    return np.fromiter(values, dtype=object)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers ``[n]`` in float64; NaN is missing."""

    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any]) -> Numbers:
        """The given rows, in that order."""
        return Numbers(self.values[rows])

    def pick(self, rows: NDArray[Any]) -> Numbers:
        """Rows counted from 1; row 0 is missing."""
        return Numbers(_picked(self.values, rows, np.nan))

    def at(self, row: int) -> Value:
        """One value; a missing one is None."""
        value = float(self.values[row])
        return None if math.isnan(value) else value


@dataclass(frozen=True, slots=True)
class Texts:
    """Strings ``[n]``; None is missing.

    Attributes:
        distinct: the strings themselves ``[n]``; or, with codes, each string once, and None the first.
        codes: ``[n]``, which of `distinct` each is: a table's few categories stand in it many times.
        known: what was made of all of `distinct`, with what made it: `each` fills it.
    """

    distinct: Strings
    codes: Rows | None = None
    known: dict[int, tuple[object, NDArray[Any]]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def values(self) -> Strings:
        """The strings ``[n]``."""
        return self.distinct if self.codes is None else self.distinct[self.codes]

    def __len__(self) -> int:
        return len(self.distinct if self.codes is None else self.codes)

    def take(self, rows: NDArray[Any]) -> Texts:
        """The given rows, in that order."""
        if self.codes is None:
            return Texts(self.distinct[rows])
        return Texts(self.distinct, self.codes[rows], self.known)

    def pick(self, rows: NDArray[Any]) -> Texts:
        """Rows counted from 1; row 0 is missing."""
        if self.codes is None:
            return Texts(_picked(self.distinct, rows, None))
        return Texts(self.distinct, _picked(self.codes, rows, 0), self.known)

    def at(self, row: int) -> Value:
        """One value; a missing one is None."""
        value: str | None = self.distinct[row if self.codes is None else self.codes[row]]
        return value

    def made(self, by: object, make: Callable[[Strings], NDArray[Any]]) -> NDArray[Any]:
        """What `make`, a matter of `by` alone, makes of the strings ``[n]``; of each distinct one once."""
        if self.codes is None:
            return make(self.distinct)
        if id(by) not in self.known:  # kept with it, so that nothing else is ever called by that number
            self.known[id(by)] = by, make(self.distinct)
        return self.known[id(by)][1][self.codes]


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists of strings: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``; missing is empty."""

    values: Strings
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: NDArray[Any]) -> Lists:
        """The given rows, in that order."""
        return self.pick(np.arange(len(self))[rows] + 1)

    def pick(self, rows: NDArray[Any]) -> Lists:
        """Rows counted from 1; row 0 is missing, an empty list."""
        starts = _picked(self.offsets[:-1], rows, 0)
        lengths = _picked(self.offsets[1:], rows, 0) - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Lists(self.values[np.repeat(starts, lengths) + inside], offsets)

    def at(self, row: int) -> Value:
        """One list."""
        return list(self.values[self.offsets[row] : self.offsets[row + 1]])

    @staticmethod
    def of(rows: Iterable[Iterable[str]]) -> Lists:
        """A column of the given lists."""
        listed = [list(row) for row in rows]
        lengths = np.fromiter(map(len, listed), np.int64, len(listed))
        return Lists(strings(chain.from_iterable(listed)), np.concatenate([[0], np.cumsum(lengths)]))


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of one width, float32 ``[n, width]``; a NaN row is missing."""

    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any]) -> Vectors:
        """The given rows, in that order."""
        return Vectors(self.values[rows])

    def pick(self, rows: NDArray[Any]) -> Vectors:
        """Rows counted from 1; row 0 is missing."""
        return Vectors(_picked(self.values, rows, np.nan))

    def at(self, row: int) -> Value:
        """One vector; a missing one is None."""
        vector = self.values[row]
        return None if bool(np.isnan(vector).any()) else vector.tolist()


Column = Numbers | Texts | Lists | Vectors


def _picked(values: NDArray[Any], rows: NDArray[Any], missing: Any) -> NDArray[Any]:
    if not len(values):
        return np.full((len(rows), *values.shape[1:]), missing, values.dtype)
    known = (rows > 0).reshape(-1, *[1] * (values.ndim - 1))
    picked: NDArray[Any] = np.where(known, values[rows - 1], missing).astype(values.dtype, copy=False)
    return picked


def as_numbers(column: Column, field: str) -> NDArray[np.float64]:
    """The column as float64 ``[n]``. Raises FeatureError on anything but numbers and their spelling."""
    if isinstance(column, Numbers):
        return column.values
    if isinstance(column, Texts):
        return np.array([_number(value, field) for value in column.values], dtype=np.float64)
    raise FeatureError(field, "expected a number, got a list")


def as_texts(column: Column, field: str) -> Strings:
    """The column as strings ``[n]``, None where missing. Raises FeatureError on lists."""
    if isinstance(column, Texts):
        return column.values
    if isinstance(column, Numbers):
        return strings(None if math.isnan(value) else text(value) for value in column.values.tolist())
    raise FeatureError(field, "expected a single value, got a list")


def as_lists(column: Column, field: str) -> Lists:
    """The column as lists of strings; a single value is a list of one, missing an empty one."""
    if isinstance(column, Lists):
        return column
    return Lists.of([] if value is None else [value] for value in as_texts(column, field))


def as_vectors(column: Column, width: int, field: str) -> NDArray[np.floating]:
    """The column as ``[n, width]``, NaN where missing. Raises FeatureError on another width."""
    if isinstance(column, Vectors):
        lengths = np.full(len(column), column.values.shape[1])
        numbers: NDArray[np.floating] = column.values
    else:
        lists = as_lists(column, field)
        lengths = np.diff(lists.offsets)
        numbers = np.array([_number(value, field) for value in lists.values], dtype=np.float64)
    known = lengths > 0
    if (lengths[known] != width).any():
        raise FeatureError(
            field, f"expected a vector of {width} numbers, got {lengths[known & (lengths != width)][0]}"
        )
    vectors = np.full((len(column), width), np.nan, numbers.dtype)
    vectors[known] = numbers.reshape(-1, width)
    return vectors


def column_of(values: Sequence[Value], field: str) -> Column:
    """A column of values as they come in a request; each means the same whatever stands beside it.

    Lists make a `Lists`, numbers alone a `Numbers`, all else a `Texts`. NaN is missing, as None is.

    Raises:
        FeatureError: an infinite number, an integer beyond 64 bits, or no value at all: a mapping, a list
            inside a list, None inside a list.
    """
    kinds = set(map(type, values))
    if kinds == {str}:
        return Texts(strings(texts(cast(Sequence[str], values))))
    if list in kinds:
        return Lists.of(_items(value, field) for value in values)
    # An id beyond 2**53 would become another one in float64.
    if kinds <= _NUMBERS and all(abs(value) <= 2**53 for value in values if type(value) is int):
        numbers = np.array(values, dtype=np.float64) + 0.0  # of two zeros the one that has a spelling
        if not np.isinf(numbers).any():
            return Numbers(numbers)
    return Texts(strings(_text(value, field) for value in values))


def _items(value: Value, field: str) -> list[str]:
    if not isinstance(value, list):
        return [single] if (single := _text(value, field)) is not None else []
    texts = [item for each in value if (item := _text(each, field)) is not None]
    if len(texts) < len(value):
        raise FeatureError(field, "null in a list; leave the entry out")
    return texts


def _text(value: Value, field: str) -> str | None:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        if value.bit_length() > 64:
            raise FeatureError(field, "an integer beyond 64 bits; send it as a string")
        return text(value)
    if isinstance(value, float):
        if math.isinf(value):
            raise FeatureError(field, "expected a finite number, got infinity")
        return None if math.isnan(value) else text(value)
    if value is None:
        return None
    raise FeatureError(field, f"expected a string, a number or a flat list, got {type(value).__name__}")


def _number(value: str | None, field: str) -> float:
    if value is None:
        return math.nan
    try:
        number = float(value)
    except ValueError:
        raise FeatureError(field, f"expected a number, got {value[:40]!r}") from None
    if math.isinf(number):
        raise FeatureError(field, "expected a finite number, got infinity")
    return number
