"""KuaiRand: impressions of a short-video app, with its users, its videos and what users watched before.

Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos", CIKM 2022.
Reads the original files of a folder, gzipped or not: every ``log_standard_*``, ``user_features_*``,
``video_features_basic_*`` and, where it is there, ``user_history_*`` (sequences of video ids by user that
end before the log begins).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from service.bundle.columns import Column, Lists, Numbers, Strings, Texts, strings
from service.bundle.errors import FeatureError
from service.bundle.spelling import text
from service.bundle.table import Table
from training.datasets.lines import check_once, check_rows, reading
from training.impressions import Impressions, Log

LABELS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "hate": "is_hate",
    "profile_enter": "is_profile_enter",
}
STAYS = ("play_time_ms", "profile_stay_time", "comment_stay_time")
"""further outcomes"""

USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
ITEM_NUMBERS = ("video_duration",)
HISTORIES = ("watch_seq", "long_watch_seq", "like_seq")
KEYS = ("user_id", "video_id")


class KuaiRandConfig(BaseModel):
    """Where the files lie is the command line's ``--data``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["kuairand"]


def read(folder: Path) -> Log:
    """The log of a folder, exact repeats dropped, in order of time.

    Labels: the logged events, `completion` (play over duration, at most 1; NaN where the duration is 0 or
    missing), `watch_time` in seconds, and `click_and_like`, where a funnel from click to like ends: some
    likes come without a click. Context: hour, tab. Beside the files' own columns a user has the lengths of
    her histories, and a video how often it stands in those of all users (``like_seq_count``).

    Raises:
        FileNotFoundError: a file is missing.
        FeatureError: a file is not what it should be.
    """
    needed = ("user_id", "video_id", "tab", "date", "hourmin", "time_ms", "play_time_ms", "duration_ms")
    log = _table(folder, "log_standard_*", (*needed, *LABELS.values()))
    log = log.drop_duplicates().sort_values("time_ms", kind="stable")
    impressions = Impressions(
        user_id=_texts(log["user_id"]),
        item_id=_texts(log["video_id"]),
        day=log["date"].to_numpy(np.int32),
        context={"hour": Texts(_texts(log["hourmin"] // 100)), "tab": Texts(_texts(log["tab"]))},
        labels=_labels(log),
    )
    history = _history(folder)
    tables = {"user": _users(folder, history), "item": _items(folder, history)}
    return Log(impressions, tables, outcomes=frozenset({*LABELS.values(), *STAYS}))


def _labels(log: pd.DataFrame) -> dict[str, np.ndarray]:
    labels = {name: log[column].to_numpy(np.float32) for name, column in LABELS.items()}
    played, duration = log["play_time_ms"].to_numpy(np.float64), log["duration_ms"].to_numpy(np.float64)
    ratio = np.divide(played, duration, out=np.full(len(log), np.nan), where=duration > 0)
    labels["completion"] = np.minimum(ratio, 1.0).astype(np.float32)
    labels["watch_time"] = (played / 1000).astype(np.float32)
    labels["click_and_like"] = labels["click"] * labels["like"]
    return labels


def _history(folder: Path) -> pd.DataFrame:
    """By user, what she watched before the log begins; of nobody where there is no such file."""
    needed = ("user_id", "history_len", *HISTORIES)
    if not _files(folder, "user_history_*"):
        return pd.DataFrame(columns=needed)
    history = _table(folder, "user_history_*", needed)
    if (again := history["user_id"].duplicated()).any():
        raise FeatureError(
            "user_history_*",
            f"has the user {history['user_id'][again].iloc[0]} twice; keep one row a user",
        )
    return history


def _users(folder: Path, history: pd.DataFrame) -> Table:
    users = _table(folder, "user_features_*", ("user_id", *USER_NUMBERS))
    ids = _texts(users["user_id"])
    columns = _columns(users.drop(columns="user_id"), USER_NUMBERS)
    listed = history.set_index("user_id").reindex(users["user_id"])
    columns["history_len"] = Numbers(listed["history_len"].to_numpy(np.float64))
    for name in HISTORIES:
        columns[name] = sequences = Lists.of(listed[name].fillna("").str.split().tolist())
        columns[f"{name}_len"] = Numbers(np.diff(sequences.offsets).astype(np.float64))
    return Table("user", [ids], columns)


def _items(folder: Path, history: pd.DataFrame) -> Table:
    videos = _table(folder, "video_features_basic_*", ("video_id", "tag", *ITEM_NUMBERS))
    columns = _columns(videos.drop(columns=["video_id", "tag"]), ITEM_NUMBERS)
    columns["tag"] = Lists.of([tag for tag in tags.split(",") if tag] for tags in videos["tag"].fillna(""))
    columns["main_tag"] = Texts(_texts(videos["tag"].str.partition(",")[0].replace("", None)))
    ids = _texts(videos["video_id"])
    for name in HISTORIES:
        counts = history[name].dropna().str.split().explode().value_counts()
        columns[f"{name}_count"] = Numbers(counts.reindex(ids, fill_value=0).to_numpy(np.float64))
    return Table("item", [ids], columns)


def _columns(frame: pd.DataFrame, numbers: Collection[str]) -> dict[str, Column]:
    """Every column of a frame: those of the given names as numbers, the others as texts."""
    return {
        name: Numbers(frame[name].to_numpy(np.float64)) if name in numbers else Texts(_texts(frame[name]))
        for name in frame.columns
    }


def _table(folder: Path, pattern: str, needed: Collection[str]) -> pd.DataFrame:
    """The files of a pattern, one after another."""
    files = _files(folder, pattern)
    if not files:
        raise FileNotFoundError(f"{folder}: no {pattern}.csv or .csv.gz; is this a KuaiRand folder?")
    return pd.concat([_frame(path, needed) for path in files], ignore_index=True)


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(path for path in folder.glob(pattern) if path.name.endswith((".csv", ".csv.gz")))
    check_once(files)
    return files


def _frame(path: Path, needed: Collection[str]) -> pd.DataFrame:
    integers, texts = ("date", "hourmin", "time_ms"), ("tag", *HISTORIES)
    numbers = (*LABELS.values(), "play_time_ms", "duration_ms", *USER_NUMBERS, *ITEM_NUMBERS, "history_len")
    dtypes = dict.fromkeys(integers, "int64") | dict.fromkeys(numbers, "float64")
    # Lists of one would be read as numbers, and these as 39.0 where a row has none.
    dtypes |= dict.fromkeys(texts, "str")
    with reading(path, "is no KuaiRand file"):
        check_rows(path, filled=KEYS)
        frame = pd.read_csv(path, dtype=dtypes)
    if missing := sorted(set(needed) - set(frame.columns)):
        raise FeatureError(path.name, f"has no column {', '.join(missing)}; is this a KuaiRand file?")
    return frame


def _texts(values: pd.Series) -> Strings:
    """The values as text, None where missing; each distinct one is spelled once."""
    codes, known = pd.factorize(values)
    spelled: Strings = strings([*map(text, known), None])[codes]  # None last: a missing one has the code -1
    return spelled
