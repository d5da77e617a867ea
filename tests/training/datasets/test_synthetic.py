"""The synthetic log: the same for the same config, true to its probabilities, and honest about time."""

from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from service.bundle.columns import Column, Numbers, Value
from service.bundle.errors import FeatureError
from service.bundle.table import Table
from training.datasets import load_log
from training.datasets.world import SyntheticConfig, World
from training.impressions import Log

Context = dict[str, Column | Value]
CONTEXT: Context = {"hour": 20, "tab": "feed", "network": "wifi"}
SMALL = SyntheticConfig(users=60, videos=400, authors=30, days=3, impressions=2_000)
FUNNELS = {
    "cart_given_click": ("cart", "click"),
    "buy_given_cart": ("buy", "cart"),
    "buy_given_click": ("buy", "click"),
    "like_given_valid_view": ("like", "valid_view"),
    "share_given_valid_view": ("share", "valid_view"),
    "comment_given_valid_view": ("comment", "valid_view"),
    "completion_given_valid_view": ("completion", "valid_view"),
}


@pytest.fixture(scope="module")
def log() -> Log:
    """The default world, seen for a third of its impressions."""
    return load_log(SyntheticConfig(impressions=100_000))


def truth_of(log: Log) -> dict[str, np.ndarray]:
    """The truth, which a synthetic log has."""
    assert log.truth is not None
    return dict(log.truth)


def told(table: Table) -> dict[str, list[Any]]:
    """A table as plain values, missing numbers as None."""
    return {name: [column.at(row) for row in range(len(table))] for name, column in table.columns.items()}


def label_and_mask(log: Log, event: str) -> tuple[np.ndarray, np.ndarray]:
    """The label of an event or of a conditional one, and the rows where it counts."""
    labels = log.impressions.labels
    label, given = FUNNELS.get(event, (event, None))
    return labels[label].astype(np.float64), np.ones(len(log), bool) if given is None else labels[given] > 0


def test_the_same_config_gives_the_same_log() -> None:
    """Whatever other random numbers the process has drawn, a training seed's included."""
    first = load_log(SMALL)
    np.random.seed(1)
    second = load_log(SMALL)
    for name, label in first.impressions.labels.items():
        assert np.array_equal(label, second.impressions.labels[name])
    for event, values in truth_of(first).items():
        assert np.array_equal(values, truth_of(second)[event])
    assert first.impressions.user_id.tolist() == second.impressions.user_id.tolist()
    assert first.impressions.item_id.tolist() == second.impressions.item_id.tolist()
    assert all(told(first.tables[name]) == told(second.tables[name]) for name in first.tables)


def test_another_seed_gives_another_world() -> None:
    """The seed is the config's."""
    one, two = World(SMALL), World(SMALL.model_copy(update={"seed": 8}))
    assert told(one.tables["item"]) != told(two.tables["item"])


def test_the_log_leaves_its_world_as_it_is() -> None:
    """Tables and truth are settled before the first day: no size of the log changes them."""
    world = World(SMALL)
    longer = SMALL.model_copy(update={"days": 9, "impressions": 9_000, "first_day": date(2025, 1, 1)})
    assert all(told(world.tables[name]) == told(World(longer).tables[name]) for name in world.tables)


def test_tables_have_the_users_and_items_of_the_config(log: Log) -> None:
    """Named by number, with 3,000 users and 6,000 videos by default; every author is known."""
    assert log.tables["user"].keys[0].tolist() == [str(i) for i in range(3_000)]
    assert log.tables["item"].keys[0].tolist() == [str(i) for i in range(6_000)]
    authors = log.tables["item"].columns["author_id"]
    assert log.tables["author"].rows(str(authors.at(i)) for i in range(6_000)).all()


def test_some_numbers_are_not_known(log: Log) -> None:
    """Fan counts are missing for some, lengths missing for some and zero for others."""
    fans, length = log.tables["user"].columns["fans"], log.tables["item"].columns["length_s"]
    assert isinstance(fans, Numbers)
    assert isinstance(length, Numbers)
    assert 0.03 < np.isnan(fans.values).mean() < 0.07
    assert np.isnan(length.values).any()
    assert (length.values == 0).any()
    assert np.nanmax(length.values) > 4 * np.nanmedian(length.values)


def test_histories_hold_taste_and_only_videos_of_before(log: Log) -> None:
    """Videos older than the log, none twice, and the liked ones among the watched; some users are new."""
    users, videos = told(log.tables["user"]), told(log.tables["item"])
    favourites = []
    for watched, liked in zip(users["watched"], users["liked"], strict=True):
        assert len(set(watched)) == len(watched) <= 40
        assert set(liked) <= set(watched)
        assert all(videos["age_days"][int(video)] >= 1 for video in watched)
        counts = np.unique(
            [tag for video in watched for tag in videos["tags"][int(video)]], return_counts=True
        )[1]
        favourites.append(np.sort(counts)[-3:].sum() / max(len(watched), 1))
    assert [] in users["watched"]
    assert np.median(favourites) > 0.5  # of a user's three first tags; of any three among 24, a fifth


def test_days_are_dates_in_order() -> None:
    """A log splits by time: every day of the config has rows, across the end of a month."""
    log = load_log(SMALL.model_copy(update={"first_day": date(2024, 2, 28), "days": 4}))
    days = log.impressions.day
    assert (np.diff(days) >= 0).all()
    assert np.unique(days).tolist() == [20240228, 20240229, 20240301, 20240302]
    assert len(log.take(days <= 20240229)) + len(log.take(days > 20240229)) == len(log) == 2_000


@pytest.mark.parametrize(
    "event", ["click", "valid_view", "like", "share", "comment", "cart", "buy", *FUNNELS]
)
def test_labels_come_as_often_as_the_truth_says(log: Log, event: str) -> None:
    """In every tenth of the true probability, where an event counts, its mean is within sampling error."""
    label, counts = label_and_mask(log, event)
    label, truth = label[counts], truth_of(log)[event][counts]
    for part in np.array_split(np.argsort(truth), 10):
        error = np.sqrt((truth[part] * (1 - truth[part])).sum()) / len(part)
        assert abs(label[part].mean() - truth[part].mean()) < 4.5 * error


@pytest.mark.parametrize("event", ["completion", "watch_time"])
def test_regressions_have_the_mean_of_the_truth(log: Log, event: str) -> None:
    """Completion lies in [0, 1]; its mean, and that of the seconds watched, is the expected one."""
    label, truth = log.impressions.labels[event].astype(np.float64), truth_of(log)[event]
    for part in np.array_split(np.argsort(truth), 10):
        error = label[part].std() / np.sqrt(len(part))
        assert abs(label[part].mean() - truth[part].mean()) < 4.5 * error
    assert label.min() >= 0
    assert log.impressions.labels["completion"].max() <= 1


def test_rates_are_those_of_a_feed(log: Log) -> None:
    """Frequent events are frequent and rare ones rare, yet each has positives to learn from."""
    rates = {name: float(label.mean()) for name, label in log.impressions.labels.items()}
    assert 0.2 < rates["click"] < 0.4
    assert 0.25 < rates["valid_view"] < 0.45
    assert 0.03 < rates["like"] < 0.08
    assert 0.01 < rates["share"] < 0.04
    assert 0.01 < rates["comment"] < 0.04
    assert 0.02 < rates["cart"] < 0.06
    assert 0.006 < rates["buy"] < 0.02


def test_a_funnel_narrows(log: Log) -> None:
    """A purchase needs a cart and a cart a click; who likes, shares or comments has watched."""
    labels = log.impressions.labels
    for later, earlier in [
        ("buy", "cart"),
        ("cart", "click"),
        *((e, "valid_view") for e in ("like", "share", "comment")),
    ]:
        assert (labels[later] <= labels[earlier]).all()


def test_entire_space_is_the_product_of_the_conditionals(log: Log) -> None:
    """The truth keeps both kinds of a funnel's probabilities, and they agree."""
    truth = truth_of(log)
    assert np.allclose(truth["cart"], truth["click"] * truth["cart_given_click"])
    assert np.allclose(truth["buy"], truth["cart"] * truth["buy_given_cart"])
    assert np.allclose(truth["buy"], truth["click"] * truth["buy_given_click"])
    assert np.allclose(truth["like"], truth["valid_view"] * truth["like_given_valid_view"])


def test_clicks_fade_with_the_position(log: Log) -> None:
    """In the log, and for the same pair; what follows a click, given it, does not."""
    position = log.impressions.context["position"]
    assert isinstance(position, Numbers)
    rates = [log.impressions.labels["click"][position.values == slot].mean() for slot in (0, 2, 5, 9)]
    assert all(above > below for above, below in pairwise(rates))
    world = World(SMALL)
    top, low = (world.probabilities(["1"], ["2", "3"], CONTEXT | {"position": slot}) for slot in (0, 9))
    assert (low["click"] < 0.7 * top["click"]).all()
    assert np.array_equal(low["cart_given_click"], top["cart_given_click"])
    assert np.array_equal(low["valid_view"], top["valid_view"])


def test_tasks_pull_apart() -> None:
    """Long videos are finished less and liked more: there is something for experts to learn."""
    world = World(SMALL)
    item = world.tables["item"].columns["length_s"]
    assert isinstance(item, Numbers)
    videos = [str(i) for i in range(400)]
    context: Context = {"hour": 12, "tab": "feed", "network": "4g"}
    truth = [world.probabilities([str(user)], videos, context) for user in range(60)]
    long = item.values > np.nanquantile(item.values, 0.8)
    short = item.values < np.nanquantile(item.values, 0.3)
    for event, sign in [("completion", -1), ("like_given_valid_view", 1)]:
        mean = np.mean([one[event] for one in truth], axis=0)
        assert sign * (mean[long].mean() - mean[short].mean()) > 0


def test_probabilities_are_the_truth_of_logged_rows(log: Log) -> None:
    """Asked by id and context, the world answers what the log keeps."""
    rows = np.random.default_rng(3).choice(len(log), 500, replace=False)
    some = log.take(rows)
    found = World(SyntheticConfig(impressions=100_000)).probabilities(
        some.impressions.user_id, some.impressions.item_id, some.impressions.context
    )
    assert found.keys() == truth_of(some).keys()
    for event, values in truth_of(some).items():
        assert np.allclose(found[event], values, rtol=1e-12)


def test_probabilities_answer_for_a_slate() -> None:
    """One user and one context hold for all candidates; without a position they stand at position 0."""
    world = World(SMALL)
    videos = [str(i) for i in range(200)]
    context: Context = {"hour": 3, "tab": "follow", "network": "5g"}
    slate = world.probabilities(["7"], videos, context)
    alone = [world.probabilities(["7"], [video], context | {"position": 0}) for video in videos]
    assert all(np.allclose(slate[e], np.concatenate([one[e] for one in alone]), rtol=1e-12) for e in slate)
    assert all(((p > 0) & (p < 1)).all() for event, p in slate.items() if event != "watch_time")


@pytest.mark.parametrize(
    ("users", "items", "context", "field"),
    [
        (["60"], ["1"], {}, r"user\.user_id: '60'"),
        (["1"], ["1", "x"], {}, r"item\.item_id: 'x'"),
        (["1"], ["1"], {"tab": "shop"}, r"context\.tab: must be one of feed"),
        (["1"], ["1"], {"tab": None}, r"context\.tab"),
        (["1"], ["1"], {"hour": 24}, r"context\.hour: must be a number from 0 to 23"),
        (["1"], ["1"], {"hour": None}, r"context\.hour"),
        (["1"], ["1"], {"position": Numbers(np.zeros(2))}, r"context\.position: has 2 values for 1"),
    ],
)
def test_what_the_world_does_not_know_is_refused(
    users: list[str], items: list[str], context: Context, field: str
) -> None:
    """The error names the field."""
    with pytest.raises(FeatureError, match=field):
        World(SMALL).probabilities(users, items, CONTEXT | context)


@pytest.mark.parametrize(
    "wrong",
    [{"sed": 1}, {"seed": -1}, {"users": 0}, {"missing": 1.0}, {"videos": 300, "slots": 10, "history": 40}],
)
def test_a_wrong_config_is_refused(wrong: dict[str, object]) -> None:
    """Unknown keys, and numbers no world can have."""
    with pytest.raises(ValidationError):
        SyntheticConfig.model_validate({"name": "synthetic"} | wrong)


@pytest.mark.parametrize("impressions", [1, 9, 10, 11])
def test_the_log_is_as_long_as_asked(impressions: int) -> None:
    """The last request is cut short where need be."""
    assert len(load_log(SMALL.model_copy(update={"impressions": impressions}))) == impressions


def test_no_video_comes_twice_in_a_request(log: Log) -> None:
    """A request shows different videos, from position 0 down."""
    shown = log.impressions.item_id.reshape(-1, 10)
    assert all(len(set(request)) == 10 for request in shown.tolist())


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """Nobody must take a made-up log for the one in the folder."""
    with pytest.raises(FeatureError, match="synthetic makes its log and reads no files: leave out --data"):
        load_log(SMALL, tmp_path)
