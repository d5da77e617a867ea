"""Point-in-time tables: how often a label came true for an author, a video, a user and tag, before a day.

They tell what an id embedding has to guess. A row of the training part sees the days before its own alone:
one that saw its own label would teach the model to read it there, and the service has no such label to give.
Validation, test and service read the table as it stands after the last training day.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from service.bundle.columns import Column, Numbers, Strings, as_texts, strings
from service.bundle.kinds import Frozen, Key, Name
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from training.features import check_held, source_of
from training.impressions import Log

IMPRESSIONS = "impressions"
"""the column of a table that counts"""

Floats = NDArray[np.float64]


class AggregateConfig(Frozen):
    """A table of smoothed means of labels, by key.

    A mean is ``(Σ w·label + prior·m) / (Σ w + prior)`` over the rows of the key's earlier days, `m` that of
    all keys, ``w = 2^(-days ago / half_life_days)``. Its column is called as the label; `impressions` holds
    ``Σ w``. Of a key that had no row before, all is missing, in training as in the service.

    Attributes:
        name: of the table.
        key: paths by whose values the rows are told apart.
        labels: of the log.
        prior: impressions that the mean of all keys counts for.
        half_life_days: after which a day counts half; none if not given.
        window_days: days before which nothing counts; none if not given.
    """

    name: Name
    key: Key
    labels: Annotated[tuple[Name, ...], Field(min_length=1)]
    prior: PositiveFloat = 20.0
    half_life_days: PositiveFloat | None = None
    window_days: PositiveInt | None = None

    @model_validator(mode="after")
    def _holds(self) -> AggregateConfig:
        if IMPRESSIONS in self.labels:
            raise ValueError(f"{IMPRESSIONS!r} is the column that counts; rename the label")
        return self


def with_aggregates(
    parts: Mapping[str, Log], configs: Sequence[AggregateConfig], schema: FeatureSchema
) -> dict[str, Log]:
    """The parts of a log with the tables, as they stand after the last day of ``train``.

    The impressions of ``train`` bring what the tables held before their own day; the others look it up.

    Raises:
        FeatureError: a label or a path of a key is not in the log.
    """
    train, tables = parts["train"], {}
    inline = dict(train.impressions.inline)
    for config in configs:
        tables[config.name], before = aggregate(train, config, schema)
        inline |= {f"{config.name}.{name}": column for name, column in before.items()}
    rich = {name: replace(part, tables={**part.tables, **tables}) for name, part in parts.items()}
    return {**rich, "train": replace(rich["train"], impressions=replace(train.impressions, inline=inline))}


def aggregate(train: Log, config: AggregateConfig, schema: FeatureSchema) -> tuple[Table, dict[str, Column]]:
    """The table after the last day, and the columns ``[n]`` of what it held before each row's own.

    Raises:
        FeatureError: a label or a path of the key is not in the log.
    """
    impressions = train.impressions
    code, keys = _numbered(train, config, schema)
    found = [impressions.label(name, f"aggregates.{config.name}") for name in config.labels]
    labels, ordinal = np.array(found, np.float64), _ordinals(impressions.day)
    before = {name: np.full(len(impressions), np.nan) for name in (*config.labels, IMPRESSIONS)}
    seen, past = np.zeros(len(keys[0]), dtype=bool), _Past(config, len(keys[0]))
    with_key = np.flatnonzero(code >= 0)
    by_day = with_key[np.argsort(ordinal[with_key], kind="stable")]
    for rows in np.split(by_day, 1 + np.flatnonzero(np.diff(ordinal[by_day]))):
        if not len(rows):
            break  # no row has a key
        today, codes = int(ordinal[rows[0]]), code[rows]
        known = seen[codes]
        for name, values in past.as_of(today).items():
            before[name][rows[known]] = values[codes[known]]
        past.add(_Day.of(today, codes, labels[:, rows]))
        seen[codes] = True
    after = past.as_of(int(ordinal.max()) + 1)
    table = Table(config.name, keys, {name: Numbers(values) for name, values in after.items()})
    return table, {name: Numbers(values) for name, values in before.items()}


@dataclass(frozen=True, slots=True)
class _Day:
    """The sums of one day: of ``K`` keys that had rows, and of ``L`` labels.

    Attributes:
        ordinal: days since year 1.
        codes: ``[K]``.
        rows: ``[K]`` impressions.
        counts: ``[L, K]`` of them whose label is known.
        sums: ``[L, K]`` of their labels.
    """

    ordinal: int
    codes: NDArray[np.int64]
    rows: Floats
    counts: Floats
    sums: Floats

    @classmethod
    def of(cls, ordinal: int, code: NDArray[np.int64], labels: Floats) -> _Day:
        """Of rows with such codes ``[n]`` and labels ``[L, n]``."""
        codes, at = np.unique(code, return_inverse=True)

        def summed(values: Floats | None) -> Floats:
            return np.bincount(at, values, minlength=len(codes)).astype(np.float64)

        known = [(~np.isnan(label)).astype(np.float64) for label in labels]
        return cls(
            ordinal,
            codes,
            summed(None),
            np.array([summed(each) for each in known]),
            np.array([summed(np.nan_to_num(label)) for label in labels]),
        )


class _Past:
    """The days so far: one by one as far as the window reaches, or all as one where there is none."""

    def __init__(self, config: AggregateConfig, keys: int) -> None:
        self._config, self._keys = config, keys
        self._days: list[_Day] = []

    def add(self, day: _Day) -> None:
        """The next day's sums."""
        window = self._config.window_days
        if window is None:
            self._days = [self._merged(day.ordinal, [*self._days, day])]
        else:
            self._days = [other for other in self._days if day.ordinal - other.ordinal < window] + [day]

    def as_of(self, today: int) -> dict[str, Floats]:
        """The table's columns ``[keys]`` on a day, from the days before it."""
        window = self._config.window_days
        past = self._merged(
            today, [day for day in self._days if window is None or today - day.ordinal <= window]
        )
        columns = {IMPRESSIONS: past.rows}
        for name, count, total in zip(self._config.labels, past.counts, past.sums, strict=True):
            mean = total.sum() / count.sum() if count.any() else np.nan
            columns[name] = (total + self._config.prior * mean) / (count + self._config.prior)
        return columns

    def _merged(self, today: int, days: Iterable[_Day]) -> _Day:
        """The sums of several days, each decayed to a later one, for every key."""
        half_life, labels = self._config.half_life_days, len(self._config.labels)
        rows, counts, sums = (np.zeros((*shape, self._keys)) for shape in ((), (labels,), (labels,)))
        for day in days:
            weight = 1.0 if half_life is None else 0.5 ** ((today - day.ordinal) / half_life)
            rows[day.codes] += weight * day.rows
            counts[:, day.codes] += weight * day.counts
            sums[:, day.codes] += weight * day.sums
        return _Day(today, np.arange(self._keys), rows, counts, sums)


def _numbered(
    log: Log, config: AggregateConfig, schema: FeatureSchema
) -> tuple[NDArray[np.int64], list[Strings]]:
    """A code ``[n]`` for each row's key, -1 where a part of it is missing; and the distinct keys' parts."""
    source = source_of(schema, log)
    for path in config.key:
        check_held(path, f"the key of {config.name}", schema, log)
    code, missing = np.zeros(len(log), np.int64), np.zeros(len(log), dtype=bool)
    parts = [as_texts(source.read(path), path) for path in config.key]
    for part in parts:
        digit, distinct = pd.factorize(part)  # -1 where it is missing
        missing |= digit < 0
        # Numbered anew with every part, so that no product of sizes overflows.
        code = pd.factorize(code * (len(distinct) + 1) + digit)[0]
    rows = np.flatnonzero(~missing)
    _, first, code_of_row = np.unique(code[rows], return_index=True, return_inverse=True)
    numbered = np.full(len(log), -1, np.int64)
    numbered[rows] = code_of_row
    return numbered, [strings(part[rows[first]].tolist()) for part in parts]


def _ordinals(days: NDArray[np.int32]) -> NDArray[np.int64]:
    """Yyyymmdd -> days since year 1."""
    distinct, at = np.unique(days, return_inverse=True)
    spelled = (str(day) for day in distinct.tolist())
    return np.array([datetime.date.fromisoformat(day).toordinal() for day in spelled], np.int64)[at]
