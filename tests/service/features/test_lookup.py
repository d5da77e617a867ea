"""What a request gets of the store: the order of beats, the keys, and the round trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.features.brought import Brought
from service.features.lookup import Lookup
from service.features.near import NearCache
from service.features.store import RowKey
from service.telemetry import Telemetry
from tests.service.features.merged import effective, merged, same, told_lengths
from tests.service.features.stores import HeldStore
from tests.tiny_features import tiny_encoder

ENCODER = tiny_encoder(leave_out=("author_seen",))  # it looks from a history's ids to the version's own table
Stored = Mapping[RowKey, Mapping[str, Value]]

USERS, ITEMS, AUTHORS = ("1", "2", "29", "nobody"), ("0", "1", "50", "199", "new"), ("a1", "a2", "a18", "zz")
FIELDS: dict[str, dict[str, st.SearchStrategy[Value]]] = {
    "user": {
        "city": st.sampled_from(["Paris", "x", None]),
        "age": st.sampled_from([3, 30.5, "41", None]),
        "recent": st.sampled_from([["11", "12"], [13], []]),
        "taste": st.just([1, -1, 0.5]),
        "unread": st.just("?"),
    },
    "item": {
        "author": st.sampled_from([*AUTHORS, None]),
        "length": st.sampled_from([1.5, 300, "7", None]),
        "tags": st.sampled_from([["t1"], ["t1", "t5"], []]),
        "clicks_1h": st.sampled_from([0, 400]),
        "cover": st.just([0.5, 0.25]),
    },
    "author_stats": {"rate": st.sampled_from([0.1, 0.9]), "group": st.sampled_from(["x", "y", None])},
    "user_author": {"rate": st.sampled_from([0.2, None]), "last": st.sampled_from(["feed", "nowhere"])},
    "tab_city": {"rate": st.sampled_from([0.3, 0.7])},
}
KEYS: dict[str, st.SearchStrategy[tuple[str, ...]]] = {
    "user": st.tuples(st.sampled_from(USERS)),
    "item": st.tuples(st.sampled_from(ITEMS)),
    "author_stats": st.tuples(st.sampled_from(AUTHORS)),
    "user_author": st.tuples(st.sampled_from(USERS), st.sampled_from(AUTHORS)),
    "tab_city": st.tuples(st.sampled_from(["feed", "search"]), st.sampled_from(["Paris", "x", "łódź"])),
}


@st.composite
def stored_rows(draw: st.DrawFn) -> Stored:
    """Some rows of every table, each with some of its fields."""
    rows = {}
    for table, keys in KEYS.items():
        for key in draw(st.lists(keys, max_size=4)):
            rows[(table, *key)] = draw(st.fixed_dictionaries({}, optional=FIELDS[table]))
    return rows


@st.composite
def requests(draw: st.DrawFn) -> Brought:
    """Known and unknown ids, some with features of their own."""
    ids = draw(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=5))
    own = {name: FIELDS["item"][name] for name in ("author", "length", "clicks_1h")}
    own |= {"item.author": FIELDS["item"]["author"], "user_author.rate": st.just(0.4)}
    cities = {name: FIELDS["user"]["city"] for name in ("city", "user.city")}
    inline = fields_in_any_order(own | cities | {"unread": st.just(1)})
    about = cities | {"age": FIELDS["user"]["age"]}
    about |= {name: st.sampled_from(USERS) for name in ("user_id", "user.user_id")}
    tabs = st.sampled_from(["feed", "search", "nowhere"])
    return Brought(
        user_id=draw(st.sampled_from([*USERS, None])),
        user=draw(
            fields_in_any_order(about | {"tab": tabs, "context.tab": tabs, "tab_city.rate": st.just(0.2)})
        ),
        context={"hour": 20} | draw(fields_in_any_order(about | {"tab": tabs, "context.tab": tabs})),
        item_ids=ids,
        inline={at: fields for at in range(len(ids)) if (fields := draw(inline))},
    )


@st.composite
def fields_in_any_order(draw: st.DrawFn, fields: dict[str, st.SearchStrategy[Value]]) -> dict[str, Value]:
    """Some of the fields, by names that are read there and by others; of two the last holds."""
    names = draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=4))
    return {name: draw(fields[name]) for name in names}


def lookup(store: HeldStore) -> Lookup:
    """A lookup with an empty cache before the store."""
    return Lookup(near_cache(store), Telemetry())


def near_cache(store: HeldStore) -> NearCache:
    """An empty one that hears of changes."""
    near = NearCache(store, entries=1_000, ttl_s=3_600, telemetry=Telemetry())
    near.hears(True)
    return near


def asked(
    ids: Sequence[str], user_id: str | None = "1", inline: Mapping[int, Mapping[str, Value]] | None = None
) -> Brought:
    """A request for some items."""
    return Brought(user_id, {}, {"tab": "feed", "hour": 20}, ids, inline or {})


def as_if_held(known: Brought, brought: Brought, truth: Encoder) -> None:
    """Assert that the completed request is encoded as `truth` encodes it as it came."""
    assert same(effective(ENCODER, known.encode(ENCODER)), effective(truth, brought.encode(truth)))
    for name in ENCODER.attributes:
        rows, true_rows = (encoder.item_rows(brought.item_ids) for encoder in (ENCODER, truth))
        found = ENCODER.attribute(name, rows, known.inline, known.items)
        expected = truth.attribute(name, true_rows, brought.inline)
        assert found.tolist() == pytest.approx(expected.tolist(), nan_ok=True)


async def completed(store: HeldStore, brought: Brought, encoder: Encoder = ENCODER) -> Brought:
    """The request over what the store knows."""
    known, sound = await lookup(store).complete(encoder, brought, within_s=10)
    assert sound
    return known


@settings(max_examples=150, deadline=None)
@given(stored_rows(), requests())
async def test_the_store_is_as_good_as_the_table(stored: Stored, brought: Brought) -> None:
    """A row in the store is encoded as if the bundle's table had held it: values, keys that follow, and all.

    What the request brings beats both.
    """
    finds, truth = lookup(HeldStore(stored)), merged(ENCODER, stored)
    for _ in ("from the store", "from what is known by then"):
        known, sound = await finds.complete(ENCODER, brought, 10)
        assert sound
        as_if_held(known, brought, truth)


@pytest.mark.parametrize(
    ("user", "context", "city"),
    [
        ({}, {"city": "x"}, "Paris"),
        ({}, {"user.city": "x"}, "x"),
        ({"city": "x"}, {}, "x"),
        ({"city": "Paris", "user.city": "x"}, {}, "x"),
        ({"user.city": "x", "city": "Paris"}, {}, "Paris"),
        ({"city": "Paris"}, {"user.city": "x"}, "x"),
        ({"tab": "search", "city": "x"}, {}, "x"),
    ],
)
async def test_a_key_is_made_of_the_names_that_the_encoder_reads(
    user: Mapping[str, Value], context: Mapping[str, Value], city: str
) -> None:
    """A bare name is the user's or the context's alone, a path is anyone's, and of both the last holds."""
    stored: Stored = {
        ("user", "1"): {"city": "Paris"},
        ("tab_city", "feed", "x"): {"rate": 0.3},
        ("tab_city", "feed", "Paris"): {"rate": 0.7},
    }
    known = await completed(HeldStore(stored), Brought("1", user, {"tab": "feed", **context}, ["0"], {}))
    assert known.context["tab_city.rate"] == stored["tab_city", "feed", city]["rate"]


@pytest.mark.parametrize("name", ["user_id", "user.user_id"])
async def test_no_field_stands_for_the_user(name: str) -> None:
    """Whose rows are asked for is the request's own id's to say, not a field of that name."""
    store = HeldStore({("user", "1"): {"age": 3}, ("user", "2"): {"age": 4}})
    known = await completed(store, Brought("1", {name: "2"}, {"tab": "feed", name: "2"}, ["0"], {}))
    assert known.user["user.age"] == 3
    assert {key[1] for keys in store.fetches for key in keys if key[0] in {"user", "user_author"}} == {"1"}


async def test_cold_is_one_round_trip_and_warm_is_none() -> None:
    """Every row of every table that the version reads, at once; and what there is none of is known, too."""
    store = HeldStore()
    ids = ["0", "1", "50", "new"]
    finds = lookup(store)
    await finds.complete(ENCODER, asked(ids), 10)
    (fetch,) = store.fetches
    authors = {ENCODER.tables["item"].columns["author"].at(int(at)) for at in (0, 1, 50)} - {None}
    assert sorted(fetch) == sorted(
        [("user", "1"), *(("item", id) for id in ids), *(("author_stats", author) for author in authors)]
        + [("user_author", "1", author) for author in authors]
        + [("tab_city", "feed", str(ENCODER.tables["user"].columns["city"].at(1)))]
    )  # fmt: skip
    again, sound = await finds.complete(ENCODER, asked(ids[::-1]), 10)
    assert sound
    assert again == asked(ids[::-1])
    assert len(store.fetches) == 1


async def test_a_key_that_the_store_changes_costs_another_round_trip() -> None:
    """An item's author as stored is another than in the table: the row of the author follows."""
    stored: Stored = {("item", "0"): {"author": "zz"}, ("author_stats", "zz"): {"rate": 0.77}}
    store = HeldStore(stored)
    known = await completed(store, asked(["0"]))
    as_if_held(known, asked(["0"]), merged(ENCODER, stored))
    assert [("author_stats", "zz") in fetch for fetch in store.fetches] == [False, True]


async def test_a_row_that_says_what_the_table_says_adds_nothing() -> None:
    """However it spells it: a request then costs no encoding of what is encoded already."""
    table = ENCODER.tables["item"]
    rows: dict[RowKey, dict[str, Value]] = {
        ("item", str(at)): {name: column.at(at) for name, column in table.columns.items()} for at in range(20)
    }
    for fields in rows.values():
        fields["length"] = None if fields["length"] is None else str(fields["length"])
        if isinstance(cover := fields["cover"], list):
            fields["cover"] = [float(f"{x:.9g}") for x in cover]
    brought = asked([str(at) for at in range(20)])
    known = await completed(HeldStore(rows), brought)
    assert known == brought
    assert known.encode(ENCODER).fresh is None


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        (("item", "0"), {"length": "long"}),
        (("item", "0"), {"length": [1, 2]}),
        (("item", "0"), {"length": float("inf")}),
        (("item", "0"), {"author": ["a1"]}),
        (("item", "0"), {"cover": [1.0]}),
        (("user", "1"), {"age": "old"}),
        (("author_stats", "a3"), {"rate": "much"}),
    ],
)
async def test_a_stored_value_that_cannot_be_read_is_left_out(
    key: RowKey, fields: Mapping[str, Value]
) -> None:
    """The caller is not refused for it; the other fields and rows hold, and the answer is degraded."""
    store = HeldStore({key: {**fields, "clicks_1h": 400}, ("item", "1"): {"length": 77}})
    brought = asked(["0", "1", "2"], inline={2: {"author": "a3"}})
    known, sound = await lookup(store).complete(ENCODER, brought, 10)
    assert not sound
    assert told_lengths(known)[1] == 77
    assert (known.inline.get(0) == {"item.clicks_1h": 400}) == (key == ("item", "0"))
    known.encode(ENCODER)


async def test_a_corrupt_row_counts_as_none() -> None:
    """And marks the answer."""
    store = HeldStore({("item", "1"): {"length": 88}})
    store.rows["item", "0"] = None
    known, sound = await lookup(store).complete(ENCODER, asked(["0", "1"]), 10)
    assert (told_lengths(known), sound) == ({1: 88}, False)


async def test_two_versions_share_the_rows_and_not_what_they_make_of_them() -> None:
    """One reads a field that the other does not."""
    other = tiny_encoder(leave_out=("author_seen", "clicks_1h"))
    store = HeldStore({("item", "0"): {"clicks_1h": 400, "length": 77}})
    finds = lookup(store)
    first, _ = await finds.complete(ENCODER, asked(["0"]), 10)
    second, _ = await finds.complete(other, asked(["0"]), 10)
    assert told_lengths(first) == told_lengths(second) == {0: 77}
    assert first.items is not None
    assert second.items is not None
    assert first.items.numbers.keys() - second.items.numbers.keys() == set()
    assert len(store.fetches) == 1
