"""Which rows of a batch are in a run of `rank.onnx` together, and whose user's state they are ranked with.

A run has a cost of its own, which requests that share it pay together. But one request's rows all have one
user, whose part the graph then takes as one row; rows of several need it row by row. So small requests share
runs and large ones do not; where the one turns into the other is measured (`service.sharing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def parts(of: slice, most: int, times: int = 1) -> Iterator[slice]:
    """Slices of so many rows at most, all of a size, that make up a slice; a multiple of `times` of them.

    None is empty: of fewer rows there are fewer.
    """
    n = of.stop - of.start
    count = min(n, -(-n // (most * times)) * times)
    return (slice(of.start + n * at // count, of.start + n * (at + 1) // count) for at in range(count))


def chunks(of: slice, ends: NDArray[np.int64], shared_rows: int, most: int, threads: int) -> list[slice]:
    """The rows of each run that is needed to rank the rows `of` a batch.

    Args:
        of: the rows.
        ends: where each request's rows end, in the batch.
        shared_rows: requests of at most so many rows share runs with those beside them.
        most: rows of a run.
        threads: that do the runs; what has more than its part of the rows is parted for all to have some.
    """
    if len(ends) == 1:
        return list(parts(of, most, threads))
    inner = ends[(ends > of.start) & (ends < of.stop)].tolist()
    wholes, start = [], of.start
    for begin, end in pairwise([of.start, *inner, of.stop]):
        if end - begin > shared_rows:
            wholes += [slice(start, begin)] * (start < begin) + [slice(begin, end)]
            start = end
    wholes += [slice(start, of.stop)] * (start < of.stop)
    most_a_thread = -(-(of.stop - of.start) // threads)
    return [chunk for whole in wholes for chunk in parts(whole, min(most, most_a_thread))]


def spread(users: Mapping[str, Array], ends: NDArray[np.int64], rows: slice) -> dict[str, Array]:
    """The user state ``[n, …]`` of some rows; one row where they are one user's, which the graph broadcasts.

    `ends`: where the rows of each request end.
    """
    if len(ends) == 1:
        return dict(users)
    first, last = np.searchsorted(ends, (rows.start, rows.stop - 1), side="right")
    if first == last:
        return {name: array[first : first + 1] for name, array in users.items()}
    owner = np.searchsorted(ends, np.arange(rows.start, rows.stop), side="right")
    return {name: array.take(owner, axis=0) for name, array in users.items()}
