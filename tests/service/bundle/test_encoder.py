"""The encoder: a training row is a serving row, and nothing out of range can reach a graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.columns import Column, Numbers, column_of, strings
from service.bundle.encoder import Encoder
from service.bundle.errors import FeatureError
from service.bundle.rows import Columns
from service.bundle.schema import Side
from service.bundle.table import Table
from tests.service.bundle.reference import Reference, rows_of
from tests.tiny_features import AUTHORS, CITIES, TABS, TAGS, tiny_encoder, tiny_tables, tiny_vocabularies

Fields = dict[str, Any]
Request = tuple[str | None, Fields, Fields, list[str], dict[int, Fields]]

ENCODER = tiny_encoder()
REFERENCE = Reference(ENCODER)

number = st.none() | st.integers(-3, 100) | st.floats(-1e3, 1e3) | st.sampled_from(["12", " 2.5"])
item_id = st.integers(0, 205).map(str)
author = st.sampled_from([*AUTHORS.tolist(), "nobody", 7])
tags = st.none() | st.sampled_from(TAGS.tolist()) | st.lists(st.sampled_from([*TAGS.tolist(), 1]), max_size=5)


def vector(width: int) -> st.SearchStrategy[Any]:
    """A vector, or none."""
    return st.none() | st.just([]) | st.lists(st.floats(-5, 5, width=32), min_size=width, max_size=width)


USER = st.fixed_dictionaries(
    {},
    optional={
        "age": number,
        "city": st.sampled_from([*CITIES.tolist(), "elsewhere", 3]),
        "taste": vector(3),
        "likes": tags,
        "recent": st.lists(item_id | st.integers(0, 205), max_size=9),
        "unheard_of": st.just("of"),
        "tab_city.rate": number,
    },
)
CONTEXT = st.fixed_dictionaries(
    {}, optional={"tab": st.sampled_from([*TABS.tolist(), None, "x"]), "hour": number, "position": number}
)
INLINE = st.fixed_dictionaries(
    {},
    optional={
        "author": author,
        "tags": tags,
        "length": number,
        "cover": vector(2),
        "clicks_1h": number,
        "item_id": st.just("55"),
        "author_stats.rate": number,
        "author_stats.group": st.sampled_from(["x", None]),
        "user_author.rate": number,
        "user_author.last": st.sampled_from(TABS.tolist()),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Known and unknown users and items, some twice, some with fields of their own."""
    user_id = draw(st.none() | st.integers(0, 32).map(str))
    ids = draw(st.lists(item_id, min_size=1, max_size=6))
    positions = st.integers(0, len(ids) - 1)
    return user_id, draw(USER), draw(CONTEXT), ids, draw(st.dictionaries(positions, INLINE, max_size=3))


def paths(head: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by path."""
    return {name if "." in name else f"{head}.{name}": value for name, value in fields.items()}


def given_of(request: Request, position: int) -> dict[str, Any]:
    """All that a request says of one candidate, by path."""
    _, user, context, _, inline = request
    return paths("user", user) | paths("context", context) | paths("item", inline.get(position, {}))


def assert_same(ours: Columns, theirs: Columns) -> None:
    """Equal to the bit."""
    np.testing.assert_array_equal(ours.index, theirs.index)
    np.testing.assert_array_equal(ours.value, theirs.value)


@settings(deadline=None, max_examples=100)
@given(requests())
def test_as_the_reference(request: Request) -> None:
    """Every slot of every feature is what a loop over rows and values makes of it."""
    sides = rows_of(ENCODER, ENCODER.request(*request))
    for position, item in enumerate(request[3]):
        expected = REFERENCE.row(request[0], item, given_of(request, position))
        for side, columns in zip(Side, sides, strict=True):
            index, value = expected[side]
            assert columns.index[position].tolist() == index
            np.testing.assert_allclose(columns.value[position], value, rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=200)
@given(requests())
def test_training_row_is_serving_row(request: Request) -> None:
    """A logged impression encodes to the bit as the candidate that it was."""
    sides = rows_of(ENCODER, ENCODER.request(*request))
    for position, item in enumerate(request[3]):
        given = {path: column_of([value], path) for path, value in given_of(request, position).items()}
        logged = ENCODER.log(strings([request[0]]), strings([item]), given, serving=True)
        for ours, theirs in zip(sides, logged, strict=True):
            assert_same(ours.take(np.array([position])), theirs)


IMPRESSIONS = st.lists(
    st.tuples(st.none() | st.integers(0, 32).map(str), item_id, number, author, tags), min_size=2
)


@settings(deadline=None)
@given(IMPRESSIONS, st.booleans())
def test_a_log_is_its_rows(impressions: list[Any], serving: bool) -> None:
    """Encoding many impressions at once is encoding each alone."""
    users, items, hours, authors, likes = zip(*impressions, strict=True)
    fields = {"context.hour": hours, "context.position": hours, "item.author": authors, "user.likes": likes}
    given: dict[str, Column] = {path: column_of(list(values), path) for path, values in fields.items()}
    whole = ENCODER.log(strings(users), strings(items), given, serving=serving)
    for row in range(len(impressions)):
        here = np.array([row])
        alone = ENCODER.log(
            strings(users[row : row + 1]),
            strings(items[row : row + 1]),
            {path: column.take(here) for path, column in given.items()},
            serving=serving,
        )
        for ours, theirs in zip(whole, alone, strict=True):
            assert_same(ours.take(here), theirs)


@settings(deadline=None)
@given(requests())
def test_what_the_table_knows_changes_nothing(request: Request) -> None:
    """A candidate that brings its own row of the table is not fresh, and encodes as if it brought none."""
    user_id, user, context, ids, _ = request
    table = ENCODER.tables["item"]
    inline = {
        position: {
            name: column.at(int(item) if int(item) < len(table) else 0)
            for name, column in table.columns.items()
        }
        for position, item in enumerate(ids)
        if int(item) < len(table)
    }
    plain, brought = (
        ENCODER.request(user_id, user, context, ids, {}),
        ENCODER.request(user_id, user, context, ids, inline),
    )
    for ours, theirs in zip(rows_of(ENCODER, brought), rows_of(ENCODER, plain), strict=True):
        assert_same(ours, theirs)
    assert all(int(ids[position]) >= len(table) for position in brought.fresh_at)


def test_known_items_are_rows_of_the_table() -> None:
    """Known candidates cost no item columns; a duplicate keeps its place; an unknown one is row 0."""
    encoded = ENCODER.request("3", {}, {}, ["7", "no such", "7", "0"], {})
    assert encoded.item_row.tolist() == [8, 0, 8, 1]
    assert encoded.fresh is None
    assert encoded.fresh_at.tolist() == []
    assert len(encoded) == 4
    assert len(ENCODER.items) == 201


def test_an_unknown_item_in_the_vocabulary_is_fresh() -> None:
    """An id without a row of the table, but with an embedding, has item columns of its own."""
    tables = tiny_tables()
    tables["item"] = Table("item", [tables["item"].keys[0][:100]], {"length": Numbers(np.ones(100))})
    encoder = Encoder(ENCODER.schema, tiny_vocabularies(tiny_tables()), tables)
    encoded = encoder.request(None, {}, {}, ["150", "3", "nothing"], {})
    assert encoded.item_row.tolist() == [0, 4, 0]
    assert encoded.fresh_at.tolist() == [0]


def test_request_beats_table() -> None:
    """What the request says of user and item wins, and what it says is missing is missing."""
    own = rows_of(ENCODER, ENCODER.request("3", {"age": 47}, {}, ["9"], {0: {"author": "a3"}}))
    none = rows_of(ENCODER, ENCODER.request("3", {"age": None}, {}, ["9"], {0: {"author": None}}))
    layout = {block.feature: block for block in ENCODER.schema.layout(Side.USER).value}
    assert own[0].value[0, layout["age"].slots].tolist() == [1, 0]
    assert none[0].value[0, layout["age"].slots].tolist() == [0, 1]
    author = next(block for block in ENCODER.schema.layout(Side.ITEM).index if block.feature == "author")
    assert own[1].index[0, author.start] == 4
    assert none[1].index[0, author.start] == 0


@settings(deadline=None)
@given(requests(), number)
def test_position_is_a_constant_in_serving(request: Request, position: Any) -> None:
    """A train_only feature has its constant in serving, whatever a request says; training sees the truth."""
    user_id, user, context, ids, inline = request
    moved = {**context, "position": position}
    assert_same(ENCODER.request(*request).user, ENCODER.request(user_id, user, moved, ids, inline).user)
    given = {"context.position": column_of([7.0], "position")}
    block = next(b for b in ENCODER.schema.layout(Side.USER).value if b.feature == "position")
    for serving, seen in ((True, [2.0, 0.0]), (False, [7.0, 0.0])):
        logged = ENCODER.log(strings([user_id]), strings(["1"]), given, serving=serving)[0]
        assert logged.value[0, block.slots].tolist() == seen
    unsaid = ENCODER.log(strings([user_id]), strings(["1"]), {}, serving=False)[0]
    assert unsaid.value[0, block.slots].tolist() == [0.0, 1.0]


@settings(deadline=None)
@given(requests(), number)
def test_live_features_never_enter_the_item_side(request: Request, clicks: Any) -> None:
    """A counter of the last hour changes the row, and leaves the item's state alone."""
    user_id, user, context, ids, _ = request
    still = ENCODER.request(user_id, user, context, ids, {})
    moved = ENCODER.request(user_id, user, context, ids, {0: {"clicks_1h": clicks}})
    assert_same(rows_of(ENCODER, moved)[1], rows_of(ENCODER, still)[1])
    assert moved.fresh_at.tolist() == still.fresh_at.tolist()


def test_attribute() -> None:
    """The fusion's item attributes: the table's numbers, the candidate's own before them, NaN where none."""
    length = ENCODER.tables["item"].columns["length"]
    rows = ENCODER.item_rows(["4", "unknown", "5", "4"])
    inline: dict[int, Fields] = {2: {"length": 9.5}, 3: {"length": None}, 1: {"author": "a1"}}
    np.testing.assert_array_equal(
        ENCODER.attribute("length", rows, inline), [length.at(4), np.nan, 9.5, np.nan]
    )
    np.testing.assert_array_equal(
        ENCODER.attribute("length", rows, {0: {"item.length": 3}}),
        [3, np.nan, *[length.at(n) for n in (5, 4)]],
    )
    np.testing.assert_array_equal(
        ENCODER.attribute("length", rows, {}), ENCODER.attribute("length", rows, {1: {}})
    )
    with pytest.raises(
        FeatureError, match=r"^candidates\[2\]\.features\.length: expected a number, got 'long'"
    ):
        ENCODER.attribute("length", rows, {0: {"length": "9"}, 2: {"length": "long"}, 3: {"length": [1]}})


def test_attributes_are_numbers() -> None:
    """Nothing else can be read by a formula: neither text nor a list, nor what is not there."""
    assert ENCODER.attributes == {"length", "clicks_1h"}
    for name in ("author", "tags", "cover", "nothing"):
        with pytest.raises(FeatureError, match=rf"^item\.{name}: is no item field of numbers"):
            ENCODER.attribute(name, ENCODER.item_rows(["4"]), {})


def test_user_rows() -> None:
    """Users are known by id, and nobody is row 0."""
    assert [ENCODER.user_row(user) for user in ("0", "29", "30", None)] == [1, 30, 0, 0]
