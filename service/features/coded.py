"""One of a few values for each item, as a number: whom a change concerns is then one look at an array."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coded(Generic[K, V]):
    """A value for each item, by its key; what is made of a key is made once.

    Args:
        count: of the items.
        make: a value of a key.
        nothing: the key of an item that none was noted for.
    """

    def __init__(self, count: int, make: Callable[[K], V], nothing: K) -> None:
        self._make, self._nothing = make, nothing
        self._code = np.zeros(count, np.int32)
        self.clear()

    @property
    def full(self) -> bool:
        """Are there many more values than items, most of which nobody has any more?"""
        return len(self._values) > 2 * len(self._code) + 1

    def clear(self) -> None:
        """Forget all."""
        self._codes: dict[K, int] = {self._nothing: 0}
        self._values = [self._make(self._nothing)]
        self._code.fill(0)

    def of(self, rows: Rows) -> list[V]:
        """The values ``[n]`` of items."""
        values = self._values
        return [values[code] for code in self._code[rows].tolist()]

    def put(self, rows: Rows, keys: Sequence[K]) -> None:
        """Note the keys ``[n]`` of items."""
        self._code[rows] = [self._number(key) for key in keys]

    def rows(self, keys: Iterable[K]) -> NDArray[np.intp]:
        """The items that have one of the keys."""
        codes = [code for key in keys if (code := self._codes.get(key))]
        if not codes:
            return np.empty(0, np.intp)
        chosen = np.zeros(len(self._values), bool)
        chosen[codes] = True
        return np.flatnonzero(chosen[self._code])

    def _number(self, key: K) -> int:
        if (code := self._codes.get(key)) is None:
            code = self._codes[key] = len(self._values)
            self._values.append(self._make(key))
        return code
