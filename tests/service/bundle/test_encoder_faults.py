"""Bad input to the encoder: absurd values, and bundles whose parts do not belong together."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.columns import Numbers, Texts, strings
from service.bundle.encoder import Encoder
from service.bundle.errors import FeatureError
from service.bundle.features import BOUND
from service.bundle.kinds import Fitted, VocabularySpec
from service.bundle.rows import Columns
from service.bundle.schema import FeatureSchema, Side
from service.bundle.table import Table
from service.bundle.vocabulary import PairVocabulary, Vocabulary
from tests.service.bundle.reference import rows_of
from tests.tiny_features import tiny_encoder, tiny_tables, tiny_vocabularies

Fields = dict[str, Any]

ENCODER = tiny_encoder()

item_id = st.integers(0, 205).map(str)
any_text = st.text(st.characters(exclude_categories=()), max_size=10)
wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | any_text
    | st.sampled_from(["", "\0", "\ud800", "1e999", "x" * 100_000, 1e300, -1e300, 2**63]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=2),
    max_leaves=6,
)


def wild_fields(*names: str) -> st.SearchStrategy[Fields]:
    """Anything at all under these names, and under some other."""
    return st.dictionaries(st.sampled_from(names) | any_text, wild, max_size=4)


@settings(deadline=None, max_examples=250)
@given(
    st.none() | any_text,
    wild_fields("age", "city", "taste", "likes", "recent", "user_id", "tab_city.rate"),
    wild_fields("tab", "hour", "position"),
    st.lists(any_text | item_id, min_size=1, max_size=4),
    st.lists(
        wild_fields(
            "author", "tags", "length", "cover", "clicks_1h", "author_stats.rate", "user_author.last"
        ),
        max_size=4,
    ),
)
def test_nothing_out_of_range_reaches_a_graph(
    user_id: str | None, user: Fields, context: Fields, ids: list[str], inline: list[Fields]
) -> None:
    """Whatever JSON may bring is refused by name, or becomes rows of an embedding and bounded numbers."""
    by_position = dict(enumerate(inline[: len(ids)]))
    try:
        encoded = ENCODER.request(user_id, user, context, ids, by_position)
    except FeatureError as error:
        fault = error
    else:
        assert_in_range(rows_of(ENCODER, encoded))
        return
    heads = ("user", "context", *(f"candidates[{at}]" for at in by_position), *ENCODER.schema.tables)
    assert fault.field.partition(".")[0] in heads
    assert len(str(fault)) < 200


def assert_in_range(sides: tuple[Columns, Columns, Columns]) -> None:
    """Of the types, widths and bounds that the schema states."""
    fitted = ENCODER.schema.fitted
    for side, columns in zip(Side, sides, strict=True):
        layout = ENCODER.schema.layout(side)
        assert columns.index.dtype == np.int32
        assert columns.value.dtype == np.float32
        assert columns.index.shape[1:] == (layout.index_width,)
        assert columns.value.shape[1:] == (layout.value_width,)
        for block in layout.index:
            rows = columns.index[:, block.slots]
            assert ((rows >= 0) & (rows < fitted.vocabularies[block.vocabulary or ""].rows)).all()
        assert (np.abs(columns.value) <= BOUND).all()


def test_tables_in_range() -> None:
    """Infinite and absurd numbers in a table are bounded like a request's."""
    tables = tiny_tables()
    items = tables["item"]
    absurd = np.array([np.inf, -np.inf, 1e300, np.nan] * 50)
    tables["item"] = Table(
        "item", items.keys, {**items.columns, "length": Numbers(absurd), "clicks_1h": Numbers(absurd)}
    )
    encoder = Encoder(ENCODER.schema, tiny_vocabularies(tiny_tables()), tables)
    assert_in_range(rows_of(encoder, encoder.request("1", {}, {}, list("0123"), {})))


def test_an_integer_too_long_to_print() -> None:
    """An integer that Python itself would not write out is refused like any that is too big."""
    with pytest.raises(FeatureError, match="beyond 64 bits; send it as a string"):
        ENCODER.request("1", {"age": 10**5000}, {}, ["1"], {})


def test_a_fault_names_its_field() -> None:
    """A value of another kind is refused by the path of the field, wherever it comes from."""
    for request, field in (
        (("1", {"age": "old"}, {}, ["1"], {}), "user.age"),
        (("1", {}, {"tab": ["a"]}, ["1"], {}), "context.tab"),
        (("1", {}, {}, ["1", "2"], {1: {"cover": [1]}}), "candidates[1].features.cover"),
        (
            ("1", {}, {}, list("1234"), {n: {"length": x} for n, x in enumerate([3, "4", "x", "y"])}),
            "candidates[2].features.length",
        ),
        (
            ("1", {}, {}, ["1"], {0: {"user_author.rate": "high"}}),
            "candidates[0].features.user_author.rate",
        ),
        (("1", {}, {}, ["1"], {0: {"item.author": ["a", "b"]}}), "candidates[0].features.item.author"),
        (("1", {}, {}, ["1"], {0: {"length": math.inf}}), "candidates[0].features.length"),
    ):
        with pytest.raises(FeatureError) as raised:
            ENCODER.request(*request)
        assert raised.value.field == field


SMALL = FeatureSchema.model_validate(
    {
        "features": [
            {"kind": "categorical", "name": "tab", "source": "context.tab"},
            {"kind": "numeric", "name": "length", "source": "item.length", "buckets": 2},
            {"kind": "product", "name": "both", "of": ["tab", "length"]},
            {"kind": "numeric", "name": "rate", "source": "stats.rate"},
        ],
        "tables": {"stats": ["item.author"]},
    }
)
SIZES = {"tab": 3, "length": 3, "both": 2}
EDGES: dict[str, tuple[float, ...]] = {"length": (1.0,)}


def small(
    sizes: Mapping[str, int] = SIZES,
    edges: Mapping[str, tuple[float, ...]] = EDGES,
    features: FeatureSchema = SMALL,
    **parts: Any,
) -> Encoder:
    """A small encoder, but for the given parts."""
    fitted = Fitted(
        vocabularies={name: VocabularySpec(rows=rows) for name, rows in sizes.items()}, edges=dict(edges)
    )
    vocabularies = {"tab": Vocabulary(strings("ab")), "both": PairVocabulary(np.array([4]), 3)}
    tables = {
        "user": Table("user", [strings("u")], {}),
        "item": Table("item", [strings("i")], {"author": Texts(strings("a"))}),
        "stats": Table("stats", [strings("a")], {"rate": Numbers(np.ones(1))}),
    }
    return Encoder(
        features.model_copy(update={"fitted": fitted}),
        {name: v for name, v in {**vocabularies, **parts.get("vocabularies", {})}.items() if v is not None},
        {name: t for name, t in {**tables, **parts.get("tables", {})}.items() if t is not None},
    )


def test_small_is_sound() -> None:
    """The encoder that the refusals below start from."""
    assert small().request("u", {}, {"tab": "a"}, ["i"], {0: {"length": 0}}).cross.index.tolist() == [[1]]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("stats: is a table that the features read", {"tables": {"stats": None}}),
    ("user: is a table that the features read", {"tables": {"user": None}}),
    ("stats: has a key of 2 parts", {"tables": {"stats": Table("stats", [strings("a")] * 2, {})}}),
    ("stats.rate: is no column of table 'stats'", {"tables": {"stats": Table("stats", [strings("a")], {})}}),
    ("tab: has no vocabulary", {"vocabularies": {"tab": None}}),
    ("tab: has no fitted vocabulary; fit", {"sizes": {name: SIZES[name] for name in ("length", "both")}}),
    ("tab: has a vocabulary of 3 rows where the schema states 4", {"sizes": {**SIZES, "tab": 4}}),
    ("length: has a vocabulary of 3 rows where the schema states 9", {"sizes": {**SIZES, "length": 9}}),
    ("length: has no ascending bucket edges", {"edges": {}}),
    (
        "length: has no ascending bucket edges",
        {"edges": {"length": (2.0, 1.0)}, "sizes": {**SIZES, "length": 4}},
    ),
    ("both: has no vocabulary of pairs", {"vocabularies": {"both": Vocabulary(strings("x"))}}),
    ("both: has no vocabulary of pairs", {"vocabularies": {"both": PairVocabulary(np.array([4]), 5)}}),
]


@pytest.mark.parametrize(("reason", "parts"), REFUSED, ids=[reason for reason, _ in REFUSED])
def test_refused(reason: str, parts: dict[str, Any]) -> None:
    """A bundle whose parts do not belong together is refused before it serves."""
    with pytest.raises(FeatureError, match=f"^{reason}"):
        small(**parts)


def test_a_key_of_a_column_that_is_not_there() -> None:
    """A key part that is looked up must be found in its table, too."""
    chained = {"groups": ["stats.group"], "stats": ["item.author"]}
    with pytest.raises(FeatureError, match=r"^stats\.group: is no column of table 'stats'"):
        small(
            features=SMALL.model_copy(update={"tables": {k: tuple(v) for k, v in chained.items()}}),
            tables={"groups": Table("groups", [strings("g")], {})},
        )


def test_a_serving_constant_of_another_kind() -> None:
    """A constant that its feature cannot read is found when the bundle loads, not with every request."""
    wrong = {
        "kind": "numeric",
        "name": "position",
        "source": "context.position",
        "train_only": True,
        "serving": "top",
    }
    with pytest.raises(FeatureError, match=r"^context\.position: expected a number, got 'top'"):
        small(features=FeatureSchema.model_validate({"features": [wrong]}))
