"""What a model learns from: impressions, with the tables that describe their users and items.

Knows no dataset and no model. A split by time is `take` with the rows of the wanted days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Strings
from service.bundle.errors import FeatureError
from service.bundle.table import Table


@dataclass(frozen=True, slots=True, eq=False)
class Impressions:
    """One row an item shown to a user.

    Attributes:
        user_id: strings ``[n]``.
        item_id: strings ``[n]``.
        day: int32 ``[n]``, as yyyymmdd.
        context: what held at that moment (hour, tab, position), by field.
        labels: logged values, float32 ``[n]``, by name; 0 where an event did not happen, NaN where unknown.
        inline: values that a row brings along and that override those of its tables, by path
            (``item.length_s``, ``author_stats.click_rate``): what a table held at that moment.

    Raises:
        ValueError: a column's length differs from that of `user_id`.
    """

    user_id: Strings
    item_id: Strings
    day: NDArray[np.int32]
    context: Mapping[str, Column]
    labels: Mapping[str, NDArray[np.float32]]
    inline: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self._columns():
            if len(column) != len(self):
                raise ValueError(f"{name}: has {len(column)} values for {len(self)} impressions")

    def __len__(self) -> int:
        return len(self.user_id)

    def label(self, name: str, field: str) -> NDArray[np.float32]:
        """A label ``[n]``. Raises FeatureError where there is none, at the config's `field` that names it."""
        if name not in self.labels:
            there = ", ".join(sorted(self.labels))
            raise FeatureError(field, f"the log has no label {name!r}; it has {there}")
        return self.labels[name]

    def take(self, rows: NDArray[Any]) -> Impressions:
        """The given rows (positions, or a mask), in that order."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows  # columns of lists take positions alone
        return Impressions(
            user_id=self.user_id[rows],
            item_id=self.item_id[rows],
            day=self.day[rows],
            context={name: column.take(rows) for name, column in self.context.items()},
            labels={name: label[rows] for name, label in self.labels.items()},
            inline={name: column.take(rows) for name, column in self.inline.items()},
        )

    def _columns(self) -> Iterator[tuple[str, Any]]:
        yield "item_id", self.item_id
        yield "day", self.day
        for kind, columns in (("context", self.context), ("labels", self.labels), ("inline", self.inline)):
            for name, column in columns.items():
                yield f"{kind}.{name}", column


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Impressions and their tables.

    Attributes:
        impressions: the rows.
        tables: ``user``, ``item`` and others, by name.
        truth: where the world is known, what was to be expected of each label, float64 ``[n]``: an event's
            probability per impression under its own name (entire space), and that where another event
            happened under ``<event>_given_<other>``; a regression's mean.
        outcomes: what else the log tells of an impression and is known only after it; no feature may read it.
        places: where values come from, in words, by path: a column of a file.

    Raises:
        ValueError: a column of `truth` has another length than `impressions`.
    """

    impressions: Impressions
    tables: Mapping[str, Table]
    truth: Mapping[str, NDArray[np.float64]] | None = None
    outcomes: frozenset[str] = frozenset()
    places: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (self.truth or {}).items():
            if len(values) != len(self):
                raise ValueError(f"truth.{name}: has {len(values)} values for {len(self)} impressions")

    def __len__(self) -> int:
        return len(self.impressions)

    @contextmanager
    def placing(self) -> Iterator[None]:
        """What is wrong with a value is told with the place that it comes from."""
        try:
            yield
        except FeatureError as error:
            if (place := self.places.get(error.field)) is None:
                raise
            raise FeatureError(error.field, f"{error.message}, in {place}") from None

    def take(self, rows: NDArray[Any]) -> Log:
        """The given impressions (positions, or a mask) with their truth; the tables stay whole."""
        truth = None if self.truth is None else {name: values[rows] for name, values in self.truth.items()}
        return replace(self, impressions=self.impressions.take(rows), truth=truth)
