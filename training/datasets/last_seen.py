"""A table made of a log: what was last seen of each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from service.bundle.columns import Column, Numbers, Strings, Texts
from service.bundle.table import Table


def last_seen(name: str, keys: Sequence[Strings], columns: Mapping[str, Column]) -> Table:
    """A row for every key in the log; of each field the last value that is not missing.

    Args:
        name: of the table.
        keys: a string array ``[n]`` for each part of the key; rows with None in one are left out.
        columns: by field, ``[n]``, in order of time.
    """
    groups = pd.DataFrame(dict(enumerate(keys))).groupby([*range(len(keys))], sort=False).ngroup()
    codes = groups.fillna(-1).to_numpy(np.int64)  # of a row that lacks a part of the key
    last = {field: _last(codes, _there(column)) for field, column in columns.items()}
    any_row = _last(codes, np.ones(len(codes), bool))
    return Table(
        name,
        [part[any_row - 1] for part in keys],
        {field: columns[field].pick(rows) for field, rows in last.items()},
    )


def _last(codes: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each code, the last row where it stands and something is there, counted from 1; 0 for none."""
    last = np.zeros(codes.max(initial=-1) + 1, np.int64)
    rows = np.flatnonzero(there & (codes >= 0))
    np.maximum.at(last, codes[rows], rows + 1)
    return last


def _there(column: Column) -> NDArray[np.bool_]:
    """Where a column has a value."""
    match column:
        case Numbers(values):
            return ~np.isnan(values)
        case Texts(values):
            return np.array([value is not None for value in values], bool)
        case _:
            return np.array([column.at(row) not in (None, []) for row in range(len(column))], bool)
