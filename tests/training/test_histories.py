"""What a user saw before a day, as sequences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Column, Lists, strings
from service.bundle.errors import FeatureError
from service.bundle.table import Table
from training.config import SplitConfig
from training.examples import split_log
from training.histories import HistoryConfig, history, with_histories
from training.impressions import Impressions, Log

Rows = list[tuple[str, int, int, float]]
"""user, item, day, like"""

PAST = {"x": ["7", "8"], "y": []}
LIKED = HistoryConfig(column="user.liked", where="like", length=3)
ROW = st.tuples(
    st.sampled_from("xyz"), st.integers(0, 9), st.integers(20240501, 20240504), st.sampled_from([0.0, 1.0])
)


def log_of(rows: Rows, past: bool = True) -> Log:
    """Impressions in order of time; the table knows the users x and y, and z not."""
    impressions = Impressions(
        user_id=strings(user for user, *_ in rows),
        item_id=strings(str(item) for _, item, *_ in rows),
        day=np.array([day for *_, day, _ in rows], np.int32),
        context={},
        labels={"like": np.array([like for *_, like in rows], np.float32)},
    )
    columns: dict[str, Column] = {"liked": Lists.of(PAST.values())} if past else {}
    tables = {"user": Table("user", [strings(PAST)], columns), "item": Table("item", [strings("0")], {})}
    return Log(impressions, tables)


def lists(column: Column) -> list[list[str]]:
    """Every row's list."""
    assert isinstance(column, Lists)
    return [list(column.values[a:b]) for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]


def naive(rows: Rows, user: str, day: int, config: HistoryConfig) -> list[str]:
    """What the user liked before the day, a row at a time."""
    if user not in PAST:
        return []
    liked = [str(item) for who, item, when, like in rows if who == user and when < day and like]
    return [*PAST[user], *liked][-config.length :]


@given(rows=st.lists(ROW, min_size=1, max_size=30))
def test_a_history_is_what_was_liked_on_earlier_days(rows: Rows) -> None:
    """The last of the table's own and the log's, oldest first: for each row, and for each user at the end."""
    rows.sort(key=lambda row: row[2])
    after, before = history(log_of(rows), LIKED)
    assert lists(before) == [naive(rows, user, day, LIKED) for user, _, day, _ in rows]
    assert lists(after) == [naive(rows, user, 20240505, LIKED) for user in PAST]


def test_without_a_label_all_that_was_shown_is_listed() -> None:
    """And where the table has no such column, it is made."""
    rows = [("x", 1, 20240501, 0.0), ("x", 2, 20240501, 1.0), ("x", 3, 20240502, 0.0)]
    after, before = history(log_of(rows, past=False), HistoryConfig(column="user.seen"))
    assert lists(before) == [[], [], ["1", "2"]]
    assert lists(after) == [["1", "2", "3"], []]


def test_the_table_stands_as_after_the_last_training_day() -> None:
    """Validation and test read it and bring nothing; what they liked is in none."""
    rows = [("x", day - 20240500, day, 1.0) for day in range(20240501, 20240505)]
    split = SplitConfig(train_until=20240502, validate_until=20240503)
    parts = with_histories(split_log(log_of(rows), split), [LIKED])
    for part in parts.values():
        assert lists(part.tables["user"].columns["liked"]) == [["8", "1", "2"], []]
    assert lists(parts["train"].impressions.inline["user.liked"]) == [["7", "8"], ["7", "8", "1"]]
    assert not parts["validate"].impressions.inline
    assert not parts["test"].impressions.inline


def test_what_the_log_has_in_every_row_is_not_extended() -> None:
    """Its table holds the last value of the whole log, so that the history would begin with the test days."""
    rows = [("x", day - 20240500, day, 1.0) for day in range(20240501, 20240505)]
    log = log_of(rows)
    logged = replace(log.impressions, inline={"user.liked": Lists.of([["7"]] * len(rows))})
    split = SplitConfig(train_until=20240502, validate_until=20240503)
    parts = split_log(replace(log, impressions=logged), split)
    with pytest.raises(
        FeatureError, match=r"histories\.user\.liked: is logged .* name the history otherwise"
    ):
        with_histories(parts, [LIKED])


def test_what_does_not_fit_is_named() -> None:
    """A label that the log has not."""
    log = log_of([("x", 1, 20240501, 1.0)])
    with pytest.raises(FeatureError, match=r"histories\.user\.liked.*'share'; it has like"):
        history(log, LIKED.model_copy(update={"where": "share"}))
