"""Millions of Python objects, a piece at a time.

One call of C, or one release, that deals with millions of objects keeps the GIL from every other thread until
it is done. The interpreter gives it up between the pieces of a loop in Python, and so requests are answered
while a version is loaded beside them, and freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray

PIECE = 4096
"""objects at a time: well under a millisecond's work"""


def pieces(n: int) -> Iterator[slice]:
    """Slices of `PIECE` at most that make up ``n``."""
    return (slice(start, min(start + PIECE, n)) for start in range(0, n, PIECE))


def looked_up(known: Mapping[str | None, int], values: Iterable[str | None]) -> NDArray[np.int64]:
    """What is known of each value ``[n]``; 0 of one that is not."""
    found = map(known.get, values, repeat(0))
    if isinstance(values, list) and len(values) <= PIECE:  # as those of a request are
        return np.fromiter(found, np.int64, len(values))
    numbers = [np.fromiter(islice(found, PIECE), np.int64)]
    while len(numbers[-1]) == PIECE:
        numbers.append(np.fromiter(islice(found, PIECE), np.int64))
    return numbers[0] if len(numbers) == 1 else np.concatenate(numbers)


def forget_values(values: NDArray[np.object_]) -> None:
    """Let go of every object of an array."""
    for piece in pieces(len(values)):
        values[piece] = None


def forget_keys(known: MutableMapping[str | None, int]) -> None:
    """Let go of everything in a dictionary."""
    while known:
        known.popitem()
