"""Reading KuaiRand's files, in their own format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from service.bundle.columns import Lists, Numbers, Texts
from service.bundle.errors import FeatureError
from service.bundle.schema import FeatureSchema
from tests.training.datasets.kuairand_files import (
    HISTORY,
    LATER_LOG,
    LOG,
    LOG_COLUMNS,
    USERS,
    VIDEOS,
    log_row,
    write,
    write_kuairand,
)
from training.datasets import load_log
from training.datasets.kuairand import KuaiRandConfig, read
from training.features import fit_features

HEADER = ",".join(LOG_COLUMNS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whole files, to be replaced one by one."""
    return write_kuairand(tmp_path)


def write_log(folder: Path, *rows: str) -> None:
    """These impressions and no others."""
    (folder / LATER_LOG).unlink(missing_ok=True)
    write(folder / LOG, HEADER, rows)


def test_all_files_of_the_log_are_one_log(folder: Path) -> None:
    """Gzipped or not, in order of time, with the tables beside it."""
    log = load_log(KuaiRandConfig(name="kuairand"), folder)
    assert len(log) == 300
    assert log.impressions.day.dtype == np.int32
    assert log.impressions.day.tolist() == sorted(log.impressions.day.tolist())
    assert log.tables.keys() == {"user", "item"}
    assert log.truth is None
    assert (log.tables["user"].rows(log.impressions.user_id) > 0).all()
    assert (log.tables["item"].rows(log.impressions.item_id) > 0).all()


def test_exact_repeats_are_dropped(folder: Path) -> None:
    """The original logs some impressions twice; what differs in anything is another impression."""
    first = log_row(user_id=1, video_id=2, date=20220422, time_ms=5, is_click=1)
    again = log_row(user_id=1, video_id=2, date=20220422, time_ms=6, is_click=1)
    write_log(folder, again, first, first, again, first)
    impressions = read(folder).impressions
    assert len(impressions) == 2
    assert impressions.user_id.tolist() == ["1", "1"]


def test_impressions_are_in_order_of_time(folder: Path) -> None:
    """Equal times keep the order of the file."""
    rows = [
        log_row(video_id=video, date=20220422, time_ms=time) for video, time in ((7, 30), (8, 10), (9, 30))
    ]
    write_log(folder, *rows)
    assert read(folder).impressions.item_id.tolist() == ["8", "7", "9"]


def test_labels_are_the_logged_events(folder: Path) -> None:
    """Each under its short name, as 0 and 1."""
    write_log(
        folder, log_row(is_click=1, is_like=1, is_profile_enter=1), log_row(long_view=1, is_hate=1, time_ms=1)
    )
    labels = read(folder).impressions.labels
    happened = {name: label.tolist() for name, label in labels.items() if label.any()}
    del happened["completion"], happened["click_and_like"]
    assert happened == {
        "click": [1, 0],
        "like": [1, 0],
        "profile_enter": [1, 0],
        "long_view": [0, 1],
        "hate": [0, 1],
    }
    assert all(label.dtype == np.float32 for label in labels.values())


def test_a_like_without_a_click_is_none_of_the_funnel(folder: Path) -> None:
    """A video that plays by itself can be liked unclicked; over all impressions the funnel's end is both."""
    events = [(click, like) for click in (0, 1) for like in (0, 1)]
    write_log(
        folder,
        *(log_row(is_click=click, is_like=like, time_ms=at) for at, (click, like) in enumerate(events)),
    )
    assert read(folder).impressions.labels["click_and_like"].tolist() == [0, 0, 0, 1]


def test_completion_is_a_share_of_the_duration(folder: Path) -> None:
    """At most 1, and unknown where the duration is 0 or missing; the time watched is in seconds."""
    played: list[tuple[int, int | str]] = [
        (5_000, 10_000),
        (30_000, 10_000),
        (5_000, 0),
        (5_000, ""),
        (0, 10_000),
    ]
    write_log(
        folder,
        *(
            log_row(play_time_ms=play, duration_ms=whole, time_ms=at)
            for at, (play, whole) in enumerate(played)
        ),
    )
    labels = read(folder).impressions.labels
    np.testing.assert_array_equal(labels["completion"], [0.5, 1, np.nan, np.nan, 0])
    np.testing.assert_array_equal(labels["watch_time"], [5, 30, 5, 5, 0])


def test_the_context_is_hour_and_tab(folder: Path) -> None:
    """The hour of hourmin, both as categories."""
    write_log(
        folder, *(log_row(hourmin=hour, tab=1, time_ms=at) for at, hour in enumerate((0, 59, 905, 2359)))
    )
    context = read(folder).impressions.context
    assert isinstance(context["hour"], Texts)
    assert isinstance(context["tab"], Texts)
    assert context["hour"].values.tolist() == ["0", "0", "9", "23"]
    assert context["tab"].values.tolist() == ["1"] * 4


def test_user_features_are_numbers_or_categories(folder: Path) -> None:
    """Counts are numbers; all else is a category by its text, 1.0 the same as 1, missing is missing."""
    write(
        folder / USERS,
        "user_id,user_active_degree,follow_user_num,fans_user_num,friend_user_num,register_days,onehot_feat4",
        ["0,full_active,514,150,34,799,1.0", "1,UNKNOWN,457,,3,1474,", "2,,0,0,0,0,12.0"],
    )
    users = read(folder).tables["user"]
    assert users.keys[0].tolist() == ["0", "1", "2"]
    fans, degree, hot = (
        users.columns[name] for name in ("fans_user_num", "user_active_degree", "onehot_feat4")
    )
    assert isinstance(fans, Numbers)
    np.testing.assert_array_equal(fans.values, [150, np.nan, 0])
    assert [degree.at(row) for row in range(3)] == ["full_active", "UNKNOWN", None]
    assert [hot.at(row) for row in range(3)] == ["1", None, "12"]


def test_tags_are_lists(folder: Path) -> None:
    """A single tag is a list of one, whatever the others are; no tag is an empty list."""
    for tags in (["39", "", "2"], ['"12,65"', "", "2"]):
        rows = [f"{at},7,NORMAL,,{tag}" for at, tag in enumerate(tags)]
        write(folder / VIDEOS, "video_id,author_id,video_type,video_duration,tag", rows)
        column = read(folder).tables["item"].columns["tag"]
        assert isinstance(column, Lists)
        assert [column.at(row) for row in range(3)] == [tags[0].strip('"').split(","), [], ["2"]]


def test_a_missing_duration_is_missing(folder: Path) -> None:
    """Not zero, and no text."""
    write(folder / VIDEOS, "video_id,author_id,video_duration,tag", ["0,7,87433.0,39", "1,7,,2"])
    durations = read(folder).tables["item"].columns["video_duration"]
    assert isinstance(durations, Numbers)
    np.testing.assert_array_equal(durations.values, [87433, np.nan])


def test_histories_join_the_users(folder: Path) -> None:
    """Oldest first as in the file; a user without one has an empty list, as has one who liked nothing."""
    header = "user_id,history_len,last_time_ms,watch_seq,like_seq,long_watch_seq"
    write(folder / HISTORY, header, ["3,3,9,71 72 71,,72", "0,1,9,909,909,909"])
    write(folder / "user_history_more.csv.gz", header, ["5,1,9,8,,"])
    users = read(folder).tables["user"]
    watched, liked, long = (users.columns[name] for name in ("watch_seq", "like_seq", "long_watch_seq"))
    assert [watched.at(user) for user in (0, 3, 4, 5)] == [["909"], ["71", "72", "71"], [], ["8"]]
    assert [liked.at(user) for user in (0, 3, 4, 5)] == [["909"], [], [], []]
    assert [long.at(user) for user in (0, 3, 4, 5)] == [["909"], ["72"], [], []]


def test_histories_may_be_absent(folder: Path) -> None:
    """The original has none: every sequence is empty, to be made of the log's earlier days by the config."""
    (folder / HISTORY).unlink()
    log = read(folder)
    for name in ("watch_seq", "long_watch_seq", "like_seq"):
        listed = log.tables["user"].columns[name]
        assert isinstance(listed, Lists)
        assert len(listed) == len(log.tables["user"])
        assert not len(listed.values)
        counts = log.tables["item"].columns[f"{name}_count"]
        assert isinstance(counts, Numbers)
        assert not counts.values.any()


def test_a_user_has_one_history(folder: Path) -> None:
    """Another file that has her again is refused by her id."""
    write(
        folder / "user_history_more.csv", "user_id,history_len,watch_seq,like_seq,long_watch_seq", ["3,1,7,,"]
    )
    with pytest.raises(FeatureError, match=r"^user_history_\*: has the user 3 twice; keep one row a user"):
        read(folder)


def test_videos_are_counted_in_the_histories(folder: Path) -> None:
    """As often as users saw, or liked, them; and users by the lengths of theirs."""
    header = "user_id,history_len,last_time_ms,watch_seq,like_seq,long_watch_seq"
    write(folder / HISTORY, header, ["3,30,9,7 8 7,,8", "0,1,9,7,7,"])
    log = read(folder)
    items, users = log.tables["item"], log.tables["user"]
    counts, lengths = items.columns["watch_seq_count"], users.columns["watch_seq_len"]
    assert [counts.at(int(row) - 1) for row in items.rows(["7", "8", "9"])] == [3.0, 1.0, 0.0]
    assert [lengths.at(int(row) - 1) for row in users.rows(["3", "0", "5"])] == [3.0, 1.0, 0.0]
    assert users.columns["history_len"].at(int(users.rows(["3"])[0]) - 1) == 30.0


@pytest.mark.parametrize("column", ["play_time_ms", "is_click", "profile_stay_time"])
def test_what_is_known_after_the_impression_is_no_feature(folder: Path, column: str) -> None:
    """A feature that reads it is refused, with the reason."""
    schema = FeatureSchema.model_validate(
        {"features": [{"name": "leak", "kind": "numeric", "source": f"context.{column}"}]}
    )
    with pytest.raises(FeatureError, match=f"'{column}' is an outcome, known only after the impression"):
        fit_features(schema, read(folder))


@pytest.mark.parametrize("name", [USERS, VIDEOS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """With the pattern that was looked for."""
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {name.split('_pure')[0]}.*is this a KuaiRand folder"):
        read(folder)


def test_another_folder_is_no_kuairand(tmp_path: Path) -> None:
    """An empty folder and one that is not there are told apart from a crash; so is none at all."""
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no log_standard_\*"):
            read(missing)
    with pytest.raises(FeatureError, match="give their folder with --data"):
        load_log(KuaiRandConfig(name="kuairand"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,video_id\n1,2\n", "has no column comment_stay_time|has no column date"),
        ("", "is no KuaiRand file"),
        (
            HEADER + "\n" + log_row(is_click="yes") + "\n",
            "is no KuaiRand file: could not convert string to float",
        ),
        (HEADER + "\n" + log_row(date="") + "\n", "is no KuaiRand file: Integer column has NA"),
        (HEADER + "\n" + log_row() + "\n" + log_row()[:20], "line 3 has 11 values, and the header 19 names"),
        (HEADER + "\n" + log_row(user_id=""), "line 2 has no user_id; leave such rows out"),
        (HEADER + "\n" + log_row(video_id=""), "line 2 has no video_id"),
    ],
    ids=["columns missing", "empty", "no number", "no date", "cut off", "no user", "no video"],
)
def test_a_file_that_is_something_else_is_named(folder: Path, content: str, message: str) -> None:
    """By its name and what is wrong with it."""
    (folder / LATER_LOG).write_text(content, encoding="utf-8")
    with pytest.raises(FeatureError, match=f"(?i)^{LATER_LOG}: .*({message})"):
        read(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    """Cut off, or called gzipped and not."""
    whole = (folder / LOG).read_bytes()
    for content, message in ((whole[: len(whole) // 2], "is damaged or cut off"), (b"a", "is not gzipped")):
        (folder / LOG).write_bytes(content)
        with pytest.raises(FeatureError, match=f"^{LOG}: {message}"):
            read(folder)


@pytest.mark.parametrize("name", [USERS, LATER_LOG])
def test_a_table_that_is_there_twice_is_named(folder: Path, name: str) -> None:
    """Gzipped and not: its rows would be read twice."""
    (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    with pytest.raises(FeatureError, match=f"^{name}: lies beside {name}.gz"):
        read(folder)


def test_an_id_is_spelled_once(folder: Path) -> None:
    """All impressions of a user share one string: neither time nor memory for one a row."""
    users = read(folder).impressions.user_id
    assert len(set(map(id, users))) == len(set(users)) < len(users)
