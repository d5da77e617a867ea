"""A folder of KuaiRand's files, a few rows each, in the original's format."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LOG_COLUMNS = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment",
    "is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time",
    "comment_stay_time", "is_profile_enter", "is_rand", "tab",
)  # fmt: skip
LOG, LATER_LOG = "log_standard_4_22_to_4_23_pure.csv.gz", "log_standard_4_24_pure.csv"
USERS, VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv.gz"
HISTORY = "user_history_until_4_21.csv"


def write(path: Path, header: str, rows: Sequence[str]) -> None:
    """A CSV, gzipped where its name says so."""
    content = "\n".join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def log_row(**values: int | float | str) -> str:
    """A line of the log, zeros and blanks where nothing is given."""
    row: dict[str, int | float | str] = dict.fromkeys(LOG_COLUMNS, 0)
    return ",".join(str({**row, **values}[column]) for column in LOG_COLUMNS)


def write_kuairand(folder: Path, impressions: int = 300) -> Path:
    """A whole folder: 20 users, 12 videos, three days; clicks depend on the video and the user's age."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows: dict[int, list[str]] = {20220422: [], 20220423: [], 20220424: []}
    for at in range(impressions):
        user, video, day = int(rng.integers(20)), int(rng.integers(12)), 20220422 + at * 3 // impressions
        click = int(rng.random() < 0.2 + 0.05 * video)
        rows[day].append(
            log_row(
                user_id=user, video_id=video, date=day, hourmin=int(rng.integers(24)) * 100, time_ms=at,
                is_click=click, long_view=click * int(rng.integers(2)), is_like=click * int(rng.integers(2)),
                play_time_ms=int(rng.integers(20_000)), duration_ms=10_000 + video, tab=int(rng.integers(2)),
            )
        )  # fmt: skip
    write(folder / LOG, ",".join(LOG_COLUMNS), rows[20220422] + rows[20220423])
    write(folder / LATER_LOG, ",".join(LOG_COLUMNS), rows[20220424])
    write(
        folder / USERS,
        "user_id,user_active_degree,follow_user_num,fans_user_num,friend_user_num,register_days,onehot_feat4",
        [
            f"{user},{'full' if user % 2 else 'high'}_active,{user},2,3,{100 * user},{user % 3}"
            for user in range(20)
        ],
    )
    write(
        folder / VIDEOS,
        "video_id,author_id,video_type,video_duration,tag",
        [f'{video},{100 + video % 4},NORMAL,{10_000.0 + video},"{video},3"' for video in range(12)],
    )
    write(
        folder / HISTORY,
        "user_id,history_len,last_time_ms,watch_seq,like_seq,long_watch_seq",
        [f"{user},2,999,{user % 12} 3,,3" for user in range(10)],
    )
    return folder
