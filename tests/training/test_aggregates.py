"""Tables of earlier days: what each row may see, and that the service sees the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Column, Numbers, Texts, strings
from service.bundle.errors import FeatureError
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from tests.training import worlds
from training.aggregates import AggregateConfig, aggregate, with_aggregates
from training.config import ConfigError, SplitConfig, parse_config
from training.examples import split_log
from training.features import fit_features, given_columns
from training.impressions import Impressions, Log

DAYS = (20240430, 20240501, 20240503, 20240504)
"""with one that is missing, and over the end of a month"""
ORDINALS = {20240430: 0, 20240501: 1, 20240503: 3, 20240504: 4}
SCHEMA = FeatureSchema.model_validate(
    {
        "features": [
            {"name": "rate", "kind": "numeric", "source": "author_stats.click", "standardise": False},
            {"name": "pair", "kind": "numeric", "source": "user_author.click", "standardise": False},
        ],
        "tables": {"author_stats": ["item.author"], "user_author": ["user.user_id", "item.author"]},
    }
)
CONFIGS = (
    AggregateConfig(name="author_stats", key=("item.author",), labels=("click",), prior=2.0),
    AggregateConfig(name="user_author", key=("user.user_id", "item.author"), labels=("click",), prior=1.0),
)
AUTHORS = ["a", "b", None, "a"]
Rows = list[tuple[str, int, int, float]]
"""user, item, day, click"""

ROW = st.tuples(
    st.sampled_from("xy"),
    st.integers(0, 3),
    st.sampled_from(DAYS),
    st.sampled_from([0.0, 1.0, float("nan")]),
)


def log_of(rows: Rows) -> Log:
    """Impressions; items 0 and 3 are of author a, 1 of b, 2 of nobody known."""
    rows = sorted(rows, key=lambda row: row[2])
    impressions = Impressions(
        user_id=strings(user for user, *_ in rows),
        item_id=strings(str(item) for _, item, *_ in rows),
        day=np.array([day for *_, day, _ in rows], np.int32),
        context={},
        labels={"click": np.array([click for *_, click in rows], np.float32)},
    )
    items = Table("item", [strings("0123")], {"author": Texts(strings(AUTHORS))})
    return Log(impressions, {"user": Table("user", [strings("xy")], {}), "item": items})


def numbers(column: Column) -> list[float]:
    """A column of numbers."""
    assert isinstance(column, Numbers)
    return [float(value) for value in column.values]


def naive(rows: Rows, config: AggregateConfig, at: int, author: str | None) -> float:
    """The mean of an author's clicks before the day with the ordinal `at`, by the formula."""

    def weight(day: int) -> float:
        ago = at - ORDINALS[day]
        if ago <= 0 or (config.window_days and ago > config.window_days):
            return 0.0
        return 0.5 ** (ago / config.half_life_days) if config.half_life_days else 1.0

    told = [(AUTHORS[item], weight(day), click) for _, item, day, click in rows if click == click]
    told = [each for each in told if each[0] is not None]
    total = sum(w for _, w, _ in told)
    met = {AUTHORS[item] for _, item, day, _ in rows if ORDINALS[day] < at}
    if not total or author is None or author not in met:
        return float("nan")
    prior = config.prior * sum(w * click for _, w, click in told) / total
    own = [(w, click) for name, w, click in told if name == author]
    return (sum(w * click for w, click in own) + prior) / (sum(w for w, _ in own) + config.prior)


@given(
    rows=st.lists(ROW, min_size=1, max_size=30),
    half_life=st.sampled_from([None, 2.0]),
    window=st.sampled_from([None, 1, 2]),
)
def test_a_mean_is_that_of_the_earlier_days(rows: Rows, half_life: float | None, window: int | None) -> None:
    """Smoothed, decayed and windowed as the formula says, for every row and, after all days, every key."""
    rows.sort(key=lambda row: row[2])
    config = CONFIGS[0].model_copy(update={"half_life_days": half_life, "window_days": window})
    table, before = aggregate(log_of(rows), config, SCHEMA)
    expected = [naive(rows, config, ORDINALS[day], AUTHORS[item]) for _, item, day, _ in rows]
    np.testing.assert_allclose(numbers(before["click"]), expected, atol=1e-12)
    last = ORDINALS[rows[-1][2]] + 1
    after = [naive(rows, config, last, author) for author in table.keys[0]]
    np.testing.assert_allclose(numbers(table.columns["click"]), after, atol=1e-12)


@given(rows=st.lists(ROW, min_size=1, max_size=30), data=st.data())
def test_no_row_sees_its_own_day(rows: Rows, data: st.DataObject) -> None:
    """Whatever the labels of a day and of the days after it are, its rows see the same."""
    rows.sort(key=lambda row: row[2])
    day = data.draw(st.sampled_from([day for *_, day, _ in rows]))
    other = [(*row[:3], data.draw(st.sampled_from([0.0, 1.0]))) if row[2] >= day else row for row in rows]
    until = [at for at, row in enumerate(rows) if row[2] <= day]
    for config in CONFIGS:
        seen, seen_of_other = (aggregate(log_of(each), config, SCHEMA)[1] for each in (rows, other))
        for name in seen:
            one, two = (np.array(numbers(columns[name]))[until] for columns in (seen, seen_of_other))
            np.testing.assert_array_equal(one, two)


def parts_of(days: tuple[int, ...] = DAYS) -> dict[str, Log]:
    """A log with impressions on every day, cut so that the last two are validation and test."""
    rng = np.random.default_rng(0)
    rows = [
        (str(rng.choice(["x", "y"])), int(rng.integers(4)), day, float(rng.integers(2))) for day in days * 20
    ]
    return split_log(log_of(rows), SplitConfig(train_until=days[-3], validate_until=days[-2]))


def test_the_service_reads_what_the_trainer_read() -> None:
    """A later row's features are the same by the log's encoding and by that of a request, from one table."""
    parts = with_aggregates(parts_of(), CONFIGS, SCHEMA)
    features = [
        *(feature.model_dump() for feature in SCHEMA.features),
        {"name": "user", "kind": "categorical", "source": "user.user_id"},
    ]
    schema = FeatureSchema.model_validate({"features": features, "tables": SCHEMA.tables})
    encoder = fit_features(schema, parts["train"])
    rows = parts["test"].impressions
    _, item, cross = encoder.log(rows.user_id, rows.item_id, given_columns(rows), serving=True)
    assert len(np.unique(item.value[:, 0])) > 1
    assert len(np.unique(cross.value[:, 0])) > 2
    for at in range(len(rows)):
        served = encoder.request(rows.user_id[at], {}, {}, [rows.item_id[at]], {})
        np.testing.assert_array_equal(encoder.items.value[served.item_row[0]], item.value[at])
        np.testing.assert_array_equal(served.cross.value[0], cross.value[at])


def test_a_key_without_a_past_is_trained_as_it_is_served() -> None:
    """Missing and flagged so, in the training rows that meet it first as in a request for one never met."""
    parts = with_aggregates(parts_of(), CONFIGS, SCHEMA)
    users = {"name": "user", "kind": "categorical", "source": "user.user_id"}
    features = [*(feature.model_dump() for feature in SCHEMA.features), users]
    encoder = fit_features(
        FeatureSchema.model_validate({"features": features, "tables": SCHEMA.tables}), parts["train"]
    )
    first = parts["train"].take(parts["train"].impressions.day == DAYS[0]).impressions
    _, item, cross = encoder.log(first.user_id, first.item_id, given_columns(first), serving=False)
    stranger = encoder.request("stranger", {}, {}, ["new"], {})
    unknown = encoder.items.value[stranger.item_row]
    np.testing.assert_array_equal(item.value, np.repeat(unknown, len(first), axis=0))
    np.testing.assert_array_equal(cross.value, np.repeat(stranger.cross.value, len(first), axis=0))


def test_only_training_rows_bring_what_they_saw() -> None:
    """Validation and test have nothing inline: they look the frozen table up, as the service does."""
    parts = with_aggregates(parts_of(), CONFIGS, SCHEMA)
    assert set(parts["train"].impressions.inline) == {
        "author_stats.click", "author_stats.impressions", "user_author.click", "user_author.impressions"
    }  # fmt: skip
    for name in ("validate", "test"):
        assert not parts[name].impressions.inline
        assert parts[name].tables.keys() == {"user", "item", "author_stats", "user_author"}


def test_the_validation_days_are_not_counted() -> None:
    """What happens after the last training day changes no table."""
    parts = parts_of()
    flipped = replace(
        parts["test"].impressions, labels={"click": 1 - parts["test"].impressions.labels["click"]}
    )
    other = {**parts, "test": replace(parts["test"], impressions=flipped)}
    for config in CONFIGS:
        one, two = (
            with_aggregates(each, CONFIGS, SCHEMA)["train"].tables[config.name] for each in (parts, other)
        )
        assert numbers(one.columns["click"]) == numbers(two.columns["click"])


def test_impressions_are_counted_by_key() -> None:
    """A count of the earlier days' rows, whether their label is known or not."""
    rows = [
        ("x", 0, DAYS[0], float("nan")),
        ("y", 3, DAYS[0], 1.0),
        ("x", 1, DAYS[1], 0.0),
        ("x", 2, DAYS[1], 1.0),
    ]
    table, before = aggregate(log_of(rows), CONFIGS[0], SCHEMA)
    assert dict(zip(table.keys[0], numbers(table.columns["impressions"]), strict=True)) == {
        "a": 2.0,
        "b": 1.0,
    }
    np.testing.assert_array_equal(numbers(before["impressions"]), [np.nan] * 4)
    _, before = aggregate(log_of([*rows, ("y", 0, DAYS[2], 0.0)]), CONFIGS[0], SCHEMA)
    assert numbers(before["impressions"])[-1] == 2.0


def test_a_label_that_the_log_has_not_is_named() -> None:
    """With the labels that are there."""
    config = CONFIGS[0].model_copy(update={"labels": ("buy",)})
    with pytest.raises(FeatureError, match=r"aggregates\.author_stats.*'buy'; it has click"):
        aggregate(log_of([("x", 0, DAYS[0], 1.0)]), config, SCHEMA)


@pytest.mark.parametrize("path", ["item.colour", "user_author.click"])
def test_a_key_that_nothing_holds_is_named(path: str) -> None:
    """A field that no table has, and what another aggregate is yet to make."""
    config = CONFIGS[0].model_copy(update={"key": (path,)})
    with pytest.raises(FeatureError, match=rf"{path}: is read by the key of author_stats and not in the log"):
        aggregate(log_of([("x", 0, DAYS[0], 1.0)]), config, SCHEMA)


def config_with(aggregates: list[dict[str, Any]], **sections: Any) -> None:
    """Parse a config with these aggregates and a feature that reads the first."""
    raw = worlds.raw_config()
    feature = {"kind": "numeric", "name": "rate_so_far", "source": f"{aggregates[0]['name']}.click"}
    parse_config(
        {**raw, "features": [*raw["features"], feature], "aggregates": aggregates, **sections}, "test"
    )


def test_an_aggregate_is_a_table_to_the_features() -> None:
    """It needs no entry under [tables], and one there under its name is refused."""
    config_with([{"name": "past", "key": ["item.author"], "labels": ["click"]}])
    tables = {**worlds.TABLES, "past": ["item.topic"]}
    with pytest.raises(ConfigError, match=r"aggregates\.past: \[tables\] has one of that name"):
        config_with([{"name": "past", "key": ["item.author"], "labels": ["click"]}], tables=tables)


def test_an_aggregate_s_faults_are_named() -> None:
    """A label called as the column that counts, and a key that is missing."""
    with pytest.raises(ConfigError, match="rename the label"):
        config_with([{"name": "past", "key": ["item.author"], "labels": ["impressions"]}])
    with pytest.raises(ConfigError, match=r"aggregates\.past\.key: is missing"):
        config_with([{"name": "past", "labels": ["click"]}])
