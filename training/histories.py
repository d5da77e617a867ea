"""Histories: the items that a user saw, or liked, before a day; as aggregates are, of sequences.

A row of the training part sees the days before its own alone; validation, test and service read the user
table as it stands after the last training day. What the table's column holds already comes first: it is
from before the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator

from service.bundle.columns import Lists, as_lists
from service.bundle.errors import FeatureError
from service.bundle.kinds import Frozen, Name, Path
from service.bundle.table import Table
from training.impressions import Log

Positions = NDArray[np.int64]


class HistoryConfig(Frozen):
    """A sequence of item ids a user, oldest first.

    Attributes:
        column: of the user table, which this extends or makes.
        where: a label that must be 1 for an item to be listed; all that were shown are if not given.
        length: the most items kept, the last ones.
    """

    column: Path
    where: Name | None = None
    length: PositiveInt = 50

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if not self.column.startswith("user."):
            raise ValueError(f"{self.column!r} is none of the user's columns; write user.<name>")
        return self


def with_histories(parts: Mapping[str, Log], configs: Sequence[HistoryConfig]) -> dict[str, Log]:
    """The parts of a log with the sequences, as they stand after the last day of ``train``.

    The impressions of ``train`` bring what was to be listed before their own day; the others look it up.

    Raises:
        FeatureError: a label is not in the log, or the table's column holds no lists or is one of the log.
    """
    train, users = parts["train"], parts["train"].tables["user"]
    inline, columns = dict(train.impressions.inline), dict(users.columns)
    for config in configs:
        if config.column in train.impressions.inline:
            raise FeatureError(
                f"histories.{config.column}",
                "is logged with each row, and the table has what was seen last, test days included;"
                " name the history otherwise",
            )
        name = config.column.removeprefix("user.")
        columns[name], inline[config.column] = history(train, config)
    table = Table("user", users.keys, columns)
    rich = {name: replace(part, tables={**part.tables, "user": table}) for name, part in parts.items()}
    return {**rich, "train": replace(rich["train"], impressions=replace(train.impressions, inline=inline))}


def history(train: Log, config: HistoryConfig) -> tuple[Lists, Lists]:
    """The sequences of the table's users after the last day, and those ``[n]`` before each row's own day.

    A user whom the table does not know has none, as in the service.

    Raises:
        FeatureError: the label is not in the log, or the table's column holds no lists.
    """
    impressions, users = train.impressions, train.tables["user"]
    known = users.columns.get(config.column.removeprefix("user."))
    past = Lists.of([[]] * len(users)) if known is None else as_lists(known, config.column)
    user = users.rows(impressions.user_id).astype(np.int64) - 1
    listed = np.flatnonzero(_listed(train, config) & (user >= 0))
    day = 1 + np.unique(impressions.day, return_inverse=True)[1]
    last = int(day.max(initial=0)) + 1
    # A key (user, day) an entry, ascending; what is from before the log has the day 0.
    owner = np.repeat(np.arange(len(users)), np.diff(past.offsets))
    keys = np.concatenate([owner * last, user[listed] * last + day[listed]])
    order = np.argsort(keys, kind="stable")
    keys, items = keys[order], np.concatenate([past.values, impressions.item_id[listed]])[order]

    def before(users_asked: Positions, days: Positions | int) -> Lists:
        first = np.searchsorted(keys, users_asked * last)
        end = np.searchsorted(keys, users_asked * last + days)
        end[users_asked < 0] = first[users_asked < 0] = 0
        return _slices(items, np.maximum(first, end - config.length), end)

    return before(np.arange(len(users)), last), before(user, day)


def _listed(train: Log, config: HistoryConfig) -> NDArray[np.bool_]:
    """Which rows ``[n]`` enter the sequence."""
    if config.where is None:
        return np.ones(len(train), dtype=bool)
    chosen: NDArray[np.bool_] = train.impressions.label(config.where, f"histories.{config.column}") == 1
    return chosen


def _slices(values: NDArray[np.object_], first: Positions, end: Positions) -> Lists:
    """A list ``values[first:end]`` each."""
    offsets = np.concatenate([[0], np.cumsum(end - first)])
    at = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], end - first)
    return Lists(values[at], offsets)
