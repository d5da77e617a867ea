"""The schema: scopes, layouts, and a clear refusal of what makes no sense."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.bundle.errors import FeatureError
from service.bundle.kinds import Match, Product, VocabularySpec
from service.bundle.schema import FeatureSchema, Scope, Side
from tests.tiny_features import CROSS, FEATURES, KEYS, tiny_encoder

Declared = dict[str, Any]

AUTHOR: Declared = {"kind": "categorical", "name": "author", "source": "item.author"}
VIDEO: Declared = {"kind": "categorical", "name": "video", "source": "item.item_id"}
AGE: Declared = {"kind": "numeric", "name": "age", "source": "user.age"}
LENGTH: Declared = {"kind": "numeric", "name": "length", "source": "item.length", "buckets": 4}
TAB: Declared = {"kind": "categorical", "name": "tab", "source": "context.tab"}
POSITION: Declared = {"kind": "numeric", "name": "position", "source": "context.position"}
RECENT: Declared = {"kind": "sequence", "name": "recent", "source": "user.recent"}


def match(**fields: Any) -> Declared:
    """A match of author in recent, but for the given fields."""
    return {"kind": "match", "name": "m", "item": "author", "sequence": "recent", **fields}


def product(*of: str) -> Declared:
    """A product."""
    return {"kind": "product", "name": "p", "of": of}


def schema(*features: Declared, **tables: list[str]) -> FeatureSchema:
    """A schema of these features."""
    return FeatureSchema.model_validate({"features": features, "tables": tables})


REFUSED: list[tuple[str, list[Declared], dict[str, list[str]]]] = [
    ("author: is declared twice", [AUTHOR, AUTHOR], {}),
    (r"nowhere\.x: reads no known table; declare \[tables.nowhere\]", [{**AGE, "source": "nowhere.x"}], {}),
    ("age: only an item feature can be live; user.age is not one", [{**AGE, "live": True}], {}),
    ("age: only a context feature can be train_only", [{**AGE, "train_only": True}], {}),
    ("position: train_only = true and a serving constant need", [{**POSITION, "serving": 1}], {}),
    ("position: train_only = true and a serving constant need", [{**POSITION, "train_only": True}], {}),
    (
        "position: train_only and serving must be those of 'place'",
        [{**POSITION, "train_only": True, "serving": 0}, {**POSITION, "name": "place"}],
        {},
    ),
    ("recent: cannot share 'age', which has no vocabulary", [AGE, {**RECENT, "share": "age"}], {}),
    ("recent: cannot share 'recent'", [{**RECENT, "share": "recent"}], {}),
    ("video: is no declared feature", [{**RECENT, "share": "video"}], {}),
    ("p: 'age' is neither categorical nor bucketed", [AGE, TAB, product("tab", "age")], {}),
    ("p: 'recent' is neither categorical nor bucketed", [RECENT, TAB, product("recent", "tab")], {}),
    ("p: 'p' is neither categorical nor bucketed", [TAB, product("tab", "p")], {}),
    ("m: item = 'age' is no categorical feature of the item", [AGE, RECENT, match(item="age")], {}),
    ("m: item = 'author'", [{**AUTHOR, "live": True}, RECENT, match()], {}),
    ("m: sequence = 'author' is no sequence of the user's", [AUTHOR, match(sequence="author")], {}),
    (
        "m: sequence = 'tags' is no sequence of the user's",
        [AUTHOR, {**RECENT, "name": "tags", "source": "item.tags"}, match(sequence="tags")],
        {},
    ),
    (
        "recent: holds no item ids; a categorical feature must read item.item_id",
        [AUTHOR, RECENT, match()],
        {},
    ),
    (
        "video: holds no item ids",
        [{**VIDEO, "live": True}, AUTHOR, {**RECENT, "share": "video"}, match()],
        {},
    ),
    ("tables.item: is built in", [AUTHOR], {"item": ["user.age"]}),
    ("tables.a: has a key that is looked up in the table itself", [AUTHOR], {"a": ["b.x"], "b": ["a.y"]}),
    (
        r"tables\.b: a\.x depends on user and item at once",
        [AUTHOR],
        {"a": ["user.user_id", "item.author"], "b": ["a.x"]},
    ),
    ("c.x: reads no known table", [AUTHOR], {"a": ["c.x"]}),
    ("at least 1 item", [AUTHOR], {"a": []}),
    ("Extra inputs are not permitted", [{**AUTHOR, "vocab": 3}], {}),
    ("should match pattern", [{**AUTHOR, "name": "a b"}], {}),
    ("should match pattern", [{**AUTHOR, "source": "author"}], {}),
]


@pytest.mark.parametrize(("reason", "features", "tables"), REFUSED, ids=[reason for reason, _, _ in REFUSED])
def test_refused(reason: str, features: list[Declared], tables: dict[str, list[str]]) -> None:
    """What makes no sense is refused, naming the culprit."""
    with pytest.raises(ValidationError, match=reason):
        schema(*features, **tables)


def test_a_hashed_vocabulary_has_buckets() -> None:
    """A table of row 0 alone has nowhere to hash to."""
    with pytest.raises(ValidationError, match="2 rows or more"):
        VocabularySpec(rows=1, hash_seed=0)


SCOPES = {
    "age": Scope.USER,
    "recent": Scope.USER,
    "tab": Scope.CONTEXT,
    "tab_city_rate": Scope.CONTEXT,
    "tab_hour": Scope.CONTEXT,
    "position": Scope.CONTEXT,
    "author_rate": Scope.ITEM,
    "author_length": Scope.ITEM,
    "clicks_1h": Scope.LIVE,
    "user_author_rate": Scope.CROSS,
    "seen": Scope.CROSS,
    "tab_length": Scope.CROSS,
}


@pytest.mark.parametrize(("name", "scope"), SCOPES.items())
def test_scope_follows_from_what_is_read(name: str, scope: Scope) -> None:
    """A feature's scope is the joint scope of all that it comes down to."""
    tiny = schema(*FEATURES, **{name: list(key) for name, key in KEYS.items()})
    assert tiny.scope(tiny.feature(name)) is scope


def test_scope_of_live_things_together() -> None:
    """With something of the item, live stays live; with the user, it is a cross."""
    live = {**LENGTH, "name": "now", "live": True}
    of_item, of_user = product("author", "now"), {**product("tab", "now"), "name": "q"}
    mixed = schema(AUTHOR, TAB, live, of_item, of_user)
    assert mixed.scope(mixed.feature("p")) is Scope.LIVE
    assert mixed.scope(mixed.feature("q")) is Scope.CROSS


def test_what_a_feature_comes_down_to() -> None:
    """All paths behind a feature are known: keys of tables, operands of products, both ends of a match."""
    tiny = tiny_encoder().schema
    reads = {feature.name: tiny.feature_reads(feature) for feature in tiny.features}
    assert reads["user_author_rate"] == {"user_author.rate", "user.user_id", "item.author"}
    assert reads["tab_length"] == {"context.tab", "item.length"}
    assert reads["author_seen"] == {"item.author", "user.recent"}


def test_tables_may_be_looked_up_by_tables() -> None:
    """A key part may itself be looked up, and brings its scope along."""
    chained = schema(
        {**AGE, "name": "g", "source": "groups.size"}, authors=["item.author"], groups=["authors.group"]
    )
    assert chained.scope(chained.feature("g")) is Scope.ITEM
    assert chained.reads("groups.size") == {"groups.size", "authors.group", "item.author"}


def test_layout_has_a_place_for_everything() -> None:
    """Blocks follow one another without a gap, single slots before pooled ones, every feature in one side."""
    tiny = tiny_encoder().schema
    placed: list[str] = []
    for side in Side:
        layout = tiny.layout(side)
        for blocks, width in ((layout.index, layout.index_width), (layout.value, layout.value_width)):
            assert [block.start for block in blocks] == [
                sum(before.width for before in blocks[:at]) for at in range(len(blocks))
            ]
            assert sum(block.width for block in blocks) == width
            placed += [block.feature for block in blocks]
        pooled = [block.pooled for block in layout.index]
        assert pooled == sorted(pooled)
        assert all(block.width == 1 for block in layout.index if not block.pooled)
    assert sorted(placed) == sorted(feature.name for feature in tiny.features)


def test_live_features_and_crosses_are_no_item_state() -> None:
    """Only what depends on the item alone, and stays, is on the item side."""
    tiny = tiny_encoder().schema
    cross = tiny.layout(Side.CROSS)
    assert {block.feature for block in (*cross.index, *cross.value)} == set(CROSS)
    for feature in tiny.features:
        if isinstance(feature, Match | Product) or not feature.live:
            continue
        assert feature.name in CROSS


def test_shared_vocabularies() -> None:
    """A sharing feature has the slots, but not the embedding, of its own."""
    tiny = tiny_encoder().schema
    blocks = {block.feature: block for side in Side for block in tiny.layout(side).index}
    assert blocks["recent"].vocabulary == "video"
    assert blocks["user_author_last"].vocabulary == "tab"
    assert blocks["tab_length"].vocabulary == "tab_length"
    with pytest.raises(FeatureError, match=r"^taste2: is no declared feature"):
        tiny.feature("taste2")


def test_json_round_trip() -> None:
    """A fitted schema survives its manifest, to the last digit."""
    tiny = tiny_encoder().schema
    assert FeatureSchema.model_validate_json(tiny.model_dump_json()) == tiny
