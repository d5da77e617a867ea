"""What a schema learns from a log: from its training part alone, and as the definitions say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.bundle.columns import Column, Lists, Numbers, Texts, strings
from service.bundle.encoder import Encoder
from service.bundle.errors import FeatureError
from service.bundle.kinds import Scale
from service.bundle.schema import FeatureSchema, Side
from service.bundle.table import Table
from service.bundle.vocabulary import Vocabulary
from tests.training import worlds
from training.config import SplitConfig
from training.examples import split_log
from training.features import fit_features, given_columns
from training.impressions import Impressions, Log


def little_log(
    items: Mapping[str, Column] | None = None,
    users: Mapping[str, Column] | None = None,
    context: Mapping[str, Column] | None = None,
    inline: Mapping[str, Column] | None = None,
) -> Log:
    """Six impressions of the users x, y and items 1, 2, 3, one a day."""
    rows = Impressions(
        user_id=strings("xyxyxy"),
        item_id=strings("112213"),
        day=np.arange(20240501, 20240507, dtype=np.int32),
        context=context or {},
        labels={},
        inline=inline or {},
    )
    tables = {
        "user": Table("user", [strings("xy")], users or {}),
        "item": Table("item", [strings("123")], items or {}),
    }
    return Log(rows, tables)


def fitted(log: Log, *features: dict[str, Any], tables: Mapping[str, Any] | None = None) -> Encoder:
    """An encoder of these features."""
    return fit_features(FeatureSchema.model_validate({"features": features, "tables": tables or {}}), log)


def slots(encoder: Encoder, log: Log, name: str) -> np.ndarray[Any, Any]:
    """What a feature is in every impression."""
    rows = log.impressions
    sides = encoder.log(rows.user_id, rows.item_id, given_columns(rows), serving=False)
    for side, columns in zip(Side, sides, strict=True):
        layout = encoder.schema.layout(side)
        for array, blocks in ((columns.index, layout.index), (columns.value, layout.value)):
            for block in blocks:
                if block.feature == name:
                    return array[:, block.slots]
    raise LookupError(name)


def numeric(**more: Any) -> dict[str, Any]:
    """A numeric feature of the item's length."""
    return {"kind": "numeric", "name": "length", "source": "item.length", **more}


def test_later_days_teach_nothing() -> None:
    """Whatever the validation and test days hold, the fitted schema and the vocabularies are the same."""
    log = worlds.log(800)
    split = SplitConfig.model_validate(worlds.SPLIT)
    train = split_log(log, split)["train"]
    schema = worlds.config().features
    later = log.impressions.day > split.train_until
    rows = log.impressions
    changed = Impressions(
        user_id=np.where(later, "u0", rows.user_id),
        item_id=np.where(later, "i1", rows.item_id),
        day=rows.day,
        context={
            "hour": Numbers(np.where(later, 1e5, rows.context["hour"].values)),
            "tab": Texts(np.where(later, "a tab of tomorrow", rows.context["tab"].values)),
            "position": rows.context["position"],
        },
        labels=rows.labels,
    )
    ours = fit_features(schema, train)
    theirs = fit_features(schema, split_log(Log(changed, log.tables), split)["train"])
    assert ours.schema == theirs.schema
    for name, vocabulary in ours.vocabularies.items():
        if isinstance(vocabulary, Vocabulary):
            assert vocabulary.ids.tolist() == theirs.vocabularies[name].ids.tolist()  # type: ignore[union-attr]


def test_a_value_only_seen_later_is_unknown() -> None:
    """It gets row 0, though a table or a later impression holds it."""
    log = little_log(context={"tab": Texts(strings("aabbcd"))})
    encoder = fitted(
        log.take(np.arange(4)),
        {"kind": "categorical", "name": "tab", "source": "context.tab"},
        {"kind": "categorical", "name": "video", "source": "item.item_id"},
    )
    assert slots(encoder, log, "tab")[:, 0].tolist() == [1, 1, 2, 2, 0, 0]
    assert slots(encoder, log, "video")[:, 0].tolist() == [1, 1, 2, 2, 1, 0]


def test_the_most_frequent_come_first_and_the_rare_not_at_all() -> None:
    """Rows go by impressions, ties by name; a minimum count is one of impressions, not of table rows."""
    log = little_log(items={"author": Texts(strings(["b", "a", "c"]))})
    feature = {"kind": "categorical", "name": "author", "source": "item.author"}
    every = fitted(log, feature).vocabularies["author"]
    some = fitted(log, {**feature, "min_count": 2}).vocabularies["author"]
    assert isinstance(every, Vocabulary)
    assert isinstance(some, Vocabulary)
    assert (every.ids.tolist(), some.ids.tolist()) == (["b", "a", "c"], ["b", "a"])


def test_missing_values_are_no_category() -> None:
    """Neither None nor an empty list enters a vocabulary."""
    log = little_log(
        items={"author": Texts(strings(["a", None, None])), "tags": Lists.of([["t", "s"], [], ["t"]])}
    )
    encoder = fitted(
        log,
        {"kind": "categorical", "name": "author", "source": "item.author"},
        {"kind": "multi", "name": "tags", "source": "item.tags", "max_length": 2},
    )
    assert [len(encoder.vocabularies[name]) for name in ("author", "tags")] == [2, 3]
    assert slots(encoder, log, "tags").tolist() == [[1, 2], [1, 2], [0, 0], [0, 0], [1, 2], [1, 0]]


def test_a_shared_vocabulary_is_its_owners() -> None:
    """A history of ids uses the rows of the ids in the impressions, and adds none."""
    log = little_log(users={"recent": Lists.of([["3", "1"], ["9"]])})
    encoder = fitted(
        log,
        {"kind": "categorical", "name": "video", "source": "item.item_id"},
        {"kind": "sequence", "name": "recent", "source": "user.recent", "share": "video", "max_length": 2},
    )
    assert encoder.vocabularies.keys() == {"video"}
    assert encoder.schema.fitted.vocabularies["video"].rows == 4
    assert slots(encoder, log, "recent")[:2].tolist() == [[3, 1], [0, 0]]


def test_hashing_learns_nothing() -> None:
    """A hashed feature has its buckets and the unknown row, whatever the log holds."""
    log = little_log()
    encoder = fitted(
        log, {"kind": "categorical", "name": "video", "source": "item.item_id", "hash_buckets": 10}
    )
    spec = encoder.schema.fitted.vocabularies["video"]
    assert spec.rows == 11
    assert spec.hash_seed is not None
    assert (slots(encoder, log, "video") > 0).all()


def test_a_scale_is_that_of_the_impressions() -> None:
    """Mean and deviation over impressions, not table rows; after the transform, missing ones left out."""
    log = little_log(items={"length": Numbers(np.array([1.0, 3.0, np.nan]))})
    seen = np.log1p([1.0, 1.0, 3.0, 3.0, 1.0])
    scale = fitted(log, numeric(transform="log1p")).schema.fitted.scales["length"]
    assert (scale.mean, scale.deviation) == pytest.approx((seen.mean(), seen.std()))
    assert fitted(log, numeric(standardise=False)).schema.fitted.scales["length"] == Scale()


@pytest.mark.parametrize(
    "values", [[0.1, 0.1, 0.1], [np.nan] * 3, [7e300] * 3], ids=["tenths", "missing", "huge"]
)
def test_a_constant_has_no_deviation(values: list[float]) -> None:
    """It is divided by 1: float error in the mean of equal numbers must not blow up another value."""
    log = little_log(items={"length": Numbers(np.array(values))})
    encoder = fitted(log, numeric())
    assert encoder.schema.fitted.scales["length"].deviation == 1.0
    assert (np.abs(slots(encoder, log, "length")) <= 1).all()


def test_an_infinite_number_is_refused() -> None:
    """No mean could be taken of it; the error names the path."""
    log = little_log(items={"length": Numbers(np.array([1.0, np.inf, 2.0]))})
    with pytest.raises(FeatureError, match=r"item\.length: has an infinite number"):
        fitted(log, numeric())


def test_buckets_hold_about_as_many_impressions_each() -> None:
    """A bucket a quartile, row 0 for the missing."""
    lengths = np.arange(100.0)
    log = Log(
        Impressions(
            user_id=strings(["x"] * 101),
            item_id=strings(str(i) for i in range(101)),
            day=np.full(101, 20240501, np.int32),
            context={},
            labels={},
        ),
        {
            "user": Table("user", [strings("x")], {}),
            "item": Table(
                "item", [strings(str(i) for i in range(101))], {"length": Numbers(np.r_[lengths, np.nan])}
            ),
        },
    )
    encoder = fitted(log, numeric(buckets=4))
    assert encoder.schema.fitted.vocabularies["length"].rows == 5
    assert np.bincount(slots(encoder, log, "length")[:, 0]).tolist() == [1, 25, 25, 25, 25]


@pytest.mark.parametrize(
    ("lengths", "edges"),
    [([0.0, 0.0, 5.0], 2), ([2.0] * 3, 1), ([np.nan] * 3, 0)],
    ids=["mostly zero", "constant", "missing"],
)
def test_ties_make_fewer_buckets(lengths: list[float], edges: int) -> None:
    """Bounds are distinct, equal numbers share a bucket, and the embedding has no row for what is gone."""
    log = little_log(items={"length": Numbers(np.array(lengths))})
    encoder = fitted(log, numeric(buckets=6))
    assert len(set(encoder.schema.fitted.edges["length"])) == edges
    assert encoder.schema.fitted.vocabularies["length"].rows == edges + 2
    one, two, three = slots(encoder, log, "length")[[0, 2, 5], 0].tolist()
    assert one == two
    assert (three != one) == (lengths[2] != lengths[0] and edges > 0)
    assert max(one, three) < edges + 2


def test_a_pair_is_known_if_it_was_seen_often_enough() -> None:
    """Pairs of user and item are counted in the training part; others are row 0."""
    log = little_log(users={"city": Texts(strings("ab"))}, items={"topic": Texts(strings("nmm"))})
    features: list[dict[str, Any]] = [
        {"kind": "categorical", "name": "city", "source": "user.city"},
        {"kind": "categorical", "name": "topic", "source": "item.topic"},
        {"kind": "product", "name": "pair", "of": ["city", "topic"], "min_count": 2},
    ]
    encoder = fitted(log, *features)
    seen = ["an", "bn", "am", "bm", "an", "bm"]
    rows = slots(encoder, log, "pair")[:, 0].tolist()
    assert [row > 0 for row in rows] == [seen.count(pair) >= 2 for pair in seen]
    assert len({row for row in rows if row}) == encoder.schema.fitted.vocabularies["pair"].rows - 1 == 2


def test_what_an_impression_brings_is_what_is_learned() -> None:
    """A value as of the impression beats the table's, in a scale as in the columns."""
    then = Numbers(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    log = little_log(items={"length": Numbers(np.full(3, 100.0))}, inline={"item.length": then})
    encoder = fitted(log, numeric())
    assert encoder.schema.fitted.scales["length"].mean == pytest.approx(3.5)
    assert slots(encoder, log, "length")[:, 0] == pytest.approx((then.values - 3.5) / then.values.std())


@pytest.mark.parametrize(
    ("source", "there"),
    [("item.autor", "item.author"), ("context.hour", "context.tab"), ("user.age", "user.user_id")],
)
def test_a_path_that_the_log_does_not_hold_is_refused(source: str, there: str) -> None:
    """A slip of the pen must not become a feature that is missing in every row; what there is, is told."""
    log = little_log(items={"author": Texts(strings("abc"))}, context={"tab": Texts(strings("aaaaaa"))})
    with pytest.raises(FeatureError, match=f"{source}: is read by slip and not in the log.*{there}"):
        fitted(log, {"kind": "categorical", "name": "slip", "source": source})


@pytest.mark.parametrize("source", ["item.click", "user.click", "context.click"])
def test_a_label_is_no_feature(source: str) -> None:
    """A field of the user, item or context that is called as a label is refused; a rate in a table is not."""
    one, three, six = (Numbers(np.ones(n)) for n in (2, 3, 6))
    log = little_log(items={"click": three}, users={"click": one}, context={"click": six})
    stats = Table("stats", [strings("123")], {"click": three})
    log = Log(
        replace(log.impressions, labels={"click": np.zeros(6, np.float32)}), {**log.tables, "stats": stats}
    )
    with pytest.raises(FeatureError, match=f"{source}: is read by leak, and 'click' is an outcome"):
        fitted(log, {"kind": "numeric", "name": "leak", "source": source})
    fitted(
        log, {"kind": "numeric", "name": "rate", "source": "stats.click"}, tables={"stats": ["item.item_id"]}
    )


def test_a_serving_constant_was_seen_in_training() -> None:
    """Serving would otherwise use an embedding that no impression has trained."""
    log = little_log(context={"position": Texts(strings("001122"))})
    feature = {"kind": "categorical", "name": "position", "source": "context.position", "train_only": True}
    fitted(log, {**feature, "serving": "0"})
    fitted(log, {**feature, "serving": 0})
    with pytest.raises(FeatureError, match=r"position: serving = '7' is no category .* '0', '1', '2'"):
        fitted(log, {**feature, "serving": "7"})


def test_a_key_that_the_log_does_not_hold_is_refused() -> None:
    """Neither is the key of a table taken for missing."""
    log = little_log()
    stats = Table("stats", [strings("ab")], {"rate": Numbers(np.ones(2))})
    log = Log(log.impressions, {**log.tables, "stats": stats})
    with pytest.raises(FeatureError, match=r"item\.author: is read by rate"):
        fitted(
            log,
            {"kind": "numeric", "name": "rate", "source": "stats.rate"},
            tables={"stats": ["item.author"]},
        )
