"""One of a few values for each item, as a number: whom a change concerns is then one look at an array."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Noted(Generic[V]):
    """The values of some items as they were when they were asked for, whatever is noted or forgotten since.

    Attributes:
        values: of any items.
        codes: ``[n]``, which of them is each item's.
    """

    values: Sequence[V]
    codes: Rows

    def each_once(self) -> tuple[list[V], NDArray[np.intp]]:
        """The items' own values, each once; and which of them is that of each ``[n]``."""
        codes, which = np.unique(self.codes, return_inverse=True)
        return [self.values[code] for code in codes.tolist()], which


class Coded(Generic[V]):
    """A value for each item.

    Args:
        count: of the items.
        nothing: the value of an item that none was noted for.
    """

    def __init__(self, count: int, nothing: V) -> None:
        self._nothing = nothing
        self._code = np.zeros(count, np.int32)
        self.clear()

    @property
    def full(self) -> bool:
        """Are there many more values than items, most of which nobody has any more?"""
        return len(self._values) > 2 * len(self._code) + 1

    def clear(self) -> None:
        """Forget all."""
        self._codes: dict[V, int] = {self._nothing: 0}
        self._values = [self._nothing]
        self._code.fill(0)

    def of(self, rows: Rows) -> Noted[V]:
        """The values of items ``[n]``."""
        return Noted(self._values, self._code[rows])

    def put(self, rows: Rows, values: Sequence[V]) -> None:
        """Note the values ``[n]`` of items."""
        self._code[rows] = [self._number(value) for value in values]

    def rows(self, values: Iterable[V]) -> NDArray[np.intp]:
        """The items that have one of the values."""
        codes = [code for value in values if (code := self._codes.get(value))]
        if not codes:
            return np.empty(0, np.intp)
        chosen = np.zeros(len(self._values), bool)
        chosen[codes] = True
        return np.flatnonzero(chosen[self._code])

    def _number(self, value: V) -> int:
        if (code := self._codes.get(value)) is None:
            code = self._codes[value] = len(self._values)
            self._values.append(value)
        return code
