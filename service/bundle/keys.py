"""Keys of several parts -> rows, by arithmetic on codes of the parts.

Knows no table: only strings, and the order they came in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import FeatureError
from service.bundle.pieces import forget_keys, looked_up, pieces

DENSE = 1 << 20
"""numbers below this are looked up in a table of them all, which is several times faster than a search"""


class KeyIndex:
    """Key -> its place, counted from 1; 0 is unknown.

    Each part has a dictionary of its own (string -> code, 0 unknown), so that parts can be looked up
    apart, once an item and once a request, and joined per row by arithmetic on the codes.

    Args:
        name: of what the keys are for, in errors.
        parts: a string array ``[n]`` for each part of the key.

    Raises:
        FeatureError: lengths differ, a key comes twice, or a part of one is missing.
    """

    def __init__(self, name: str, parts: Sequence[NDArray[np.object_]]) -> None:
        lengths = [len(part) for part in parts]
        if len(set(lengths)) != 1:
            raise FeatureError(name, f"has key parts of {lengths} values; give as many of each")
        self._codes: list[dict[str | None, int]] = [{} for _ in parts]
        codes = [_number(part, known) for part, known in zip(parts, self._codes, strict=True)]
        if any(None in known for known in self._codes):
            raise FeatureError(name, "has a row whose key is missing; leave such rows out")
        if math.prod(len(known) + 1 for known in self._codes) > 2**63:
            raise FeatureError(name, "has more key combinations than 64 bits number; use fewer parts")
        joined = self._join(codes)
        order = np.argsort(joined, kind="stable")
        ascending = joined[order]
        if twice := int((np.diff(ascending) == 0).sum()):
            raise FeatureError(name, f"{twice} keys come more than once; keys are unique")
        self._index = NumberIndex(ascending, order + 1)

    def codes(self, part: int, values: Iterable[str | None]) -> NDArray[np.int64]:
        """Codes ``[n]`` of one part's values; 0 is unknown."""
        return looked_up(self._codes[part], values)

    def code(self, part: int, value: str | None) -> int:
        """Code of a value of one part; 0 is unknown."""
        return self._codes[part].get(value, 0)

    def rows(self, *codes: NDArray[np.int64]) -> NDArray[np.int32]:
        """Rows of the keys with the given codes a part (broadcast against each other)."""
        if len(codes) == 1:
            return codes[0].astype(np.int32)  # the only part's codes count the keys as they came
        return self._index.rows(self._join(codes))

    def forget(self) -> None:
        """Give the memory back. It is of no use any more."""
        for known in self._codes:
            forget_keys(known)

    def _join(self, codes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """One number a key, its parts the digits. No known key has a digit 0: unknown parts stay unknown."""
        joined = codes[0]
        for known, code in zip(self._codes[1:], codes[1:], strict=True):
            joined = joined * (len(known) + 1) + code
        return joined


class NumberIndex:
    """Number -> row, counted from 1; 0 is unknown.

    Args:
        ascending: unique numbers ``[n]``, none below 0.
        rows: of each, ``[n]``.
    """

    def __init__(self, ascending: NDArray[np.int64], rows: NDArray[np.integer]) -> None:
        beyond = int(ascending[-1]) + 1 if len(ascending) else 0
        self._ascending = None if beyond < DENSE else ascending
        if self._ascending is None:
            self._rows = np.zeros(beyond + 1, np.int32)
            self._rows[ascending] = rows
        else:
            self._rows = np.concatenate([[0], rows]).astype(np.int32)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int32]:
        """Rows of the numbers, of any shape."""
        if self._ascending is None:
            return self._rows[np.minimum(numbers, len(self._rows) - 1)]
        at = np.searchsorted(self._ascending, numbers, side="right")
        return np.where(self._ascending[at - 1] == numbers, self._rows[at], 0)


def _number(values: NDArray[np.object_], known: dict[str | None, int]) -> NDArray[np.int64]:
    """Number the distinct values from 1 as they come, in `known`; each value's number."""
    for piece in pieces(len(values)):
        known.update(zip(values[piece], range(piece.start + 1, piece.stop + 1), strict=True))
    if len(known) == len(values):  # as those of a key of one part are: in a fifth of the time
        return np.arange(1, len(values) + 1)
    forget_keys(known)
    # A generator and not a C loop: it lets go of the GIL while a big table loads.
    return np.fromiter((known.setdefault(value, len(known) + 1) for value in values), np.int64, len(values))
