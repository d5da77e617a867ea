"""What a request or a log brings beside the tables: for each path, whose values it brings, and which."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Value, column_of
from service.bundle.errors import FeatureError
from service.bundle.schema import FeatureSchema, Scope

OF_USER = (Scope.USER, Scope.CONTEXT)
"""scopes of what is the same for all candidates of a request"""

Positions = NDArray[np.int64]
Fields = Mapping[str, Value]
Inline = Mapping[int, Fields]
"""fields of single candidates, by position"""


@dataclass(frozen=True, slots=True)
class Given:
    """Values of one path.

    Attributes:
        rows: ``[k]`` rows of a user, item or impression array that bring one, ascending.
        column: ``[k]``, theirs.
    """

    rows: Positions
    column: Column

    def at(self, rows: Positions) -> Column:
        """The values of some of its rows."""
        return self.column if rows is self.rows else self.column.take(np.searchsorted(self.rows, rows))


def names_of(schema: FeatureSchema, scope: Scope, given: Iterable[str]) -> dict[str, str]:
    """What the fields of a user, a context or a candidate may be called -> the paths that they stand for."""
    paths = [path for path in given if (schema.path_scope(path) in OF_USER) == (scope in OF_USER)]
    return {name: path for path in paths for name in (path, path.removeprefix(f"{scope}."))}


def of_all(columns: Mapping[str, Column], n: int) -> dict[str, Given]:
    """Columns ``[n]`` by path, brought by every row."""
    rows = np.arange(n)
    return {path: Given(rows, column) for path, column in columns.items()}


def of_candidates(inline: Inline, paths: Mapping[str, str]) -> dict[str, Given]:
    """What single candidates bring, by path; names that stand for none are passed over.

    Args:
        inline: by position.
        paths: what the names stand for.

    Raises:
        FeatureError: a value that no column holds.
    """
    positions = sorted(inline)
    if len({tuple(fields) for fields in inline.values()}) == 1:  # as they are in most rows of a table
        rows, names = np.array(positions, np.int64), inline[positions[0]]
        of_names = zip(*(inline[position].values() for position in positions), strict=True)
        return {
            path: Given(rows, column_of(of_name, path))
            for name, of_name in zip(names, of_names, strict=True)
            if (path := paths.get(name)) is not None
        }
    values: dict[str, dict[int, Value]] = defaultdict(dict)
    for position in positions:
        for name, value in inline[position].items():
            if (path := paths.get(name)) is not None:
                values[path][position] = value
    return {
        path: Given(np.array(list(by_position), np.int64), column_of(list(by_position.values()), path))
        for path, by_position in values.items()
    }


def alike(
    given: Mapping[str, Given], paths: Collection[str]
) -> Iterator[tuple[Positions, dict[str, Column]]]:
    """Rows that bring the same of these paths, with what they bring: so few groups as paths allow."""
    found = {path: given[path] for path in paths if path in given}
    if not found:
        return
    first, *others = found.values()
    if all(each.rows is first.rows for each in others):
        yield first.rows, {path: each.column for path, each in found.items()}
        return
    rows = np.unique(np.concatenate([each.rows for each in found.values()]))
    brings = np.stack([np.isin(rows, each.rows) for each in found.values()])
    group = (1 << np.arange(len(found))) @ brings
    for number in np.unique(group).tolist():
        here = rows[group == number]
        yield here, {path: each.at(here) for at, (path, each) in enumerate(found.items()) if number >> at & 1}


def placed(
    error: FeatureError, inline: Inline, paths: Mapping[str, str], read: Callable[[Column], object]
) -> FeatureError:
    """The error of the first candidate whose value cannot be read, by its path in the request.

    Looked for only when there is one. A list of values cannot be read if one of them cannot, so the search
    halves them.

    Args:
        error: of reading all of them.
        inline: what the candidates brought.
        paths: what the names stand for.
        read: what raised the error.
    """
    path = error.field
    named = [(at, name) for at in sorted(inline) for name in inline[at] if paths.get(name) == path]

    def fault(which: Sequence[tuple[int, str]]) -> FeatureError | None:
        try:
            read(column_of([inline[at][name] for at, name in which], path))
        except FeatureError as found:
            return found
        return None

    first = bisect_left(range(1, len(named) + 1), True, key=lambda count: fault(named[:count]) is not None)
    for position, name in named[first : first + 1]:
        own = fault([(position, name)]) or error
        return FeatureError(f"candidates[{position}].features.{name}", own.message)
    return error
