"""Rows beside the items that tell nothing: not looked at again, until they change, and never beyond that."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.columns import Numbers, Value, strings
from service.bundle.encoder import Encoder
from service.bundle.kinds import Fitted, Scale
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from service.features.brought import Brought
from service.features.lookup import Lookup
from service.features.near import NearCache
from service.features.reads import table_reads
from service.features.silent import PLACES, Silent
from service.features.store import Row, RowKey
from service.features.views import View
from service.telemetry import Telemetry
from tests.service.features.merged import effective, merged, same
from tests.service.features.stores import HeldStore
from tests.service.features.test_breaker import Clock
from tests.service.features.test_lookup import ENCODER as TINY
from tests.service.features.test_lookup import near_cache

TABS, ITEMS, BEYOND = ("feed", "search", "follow"), ("0", "1", "2", "3", "4"), "new"
HELD = {("feed", "0"): 0.125, ("feed", "1"): 0.25, ("search", "1"): 0.5}
"""the version's own rates, by tab and item; float32 holds them as they are"""
RATES = (*HELD.values(), 0.75, None)


def in_order(key: Sequence[str], tab: str, item: str) -> tuple[str, ...]:
    """The parts of a row's key: all users are of one city."""
    parts = {"context.tab": tab, "item.item_id": item, "user.city": "here", "user.user_id": "1"}
    return tuple(parts[path] for path in key)


def beside_encoder(key: tuple[str, ...] = ("context.tab", "item.item_id")) -> Encoder:
    """A version that reads one table, by a tab and an item, and perhaps the user's city."""
    schema = FeatureSchema.model_validate(
        {
            "features": [{"kind": "numeric", "name": "rate", "source": "tab_item.rate"}],
            "tables": {"tab_item": key},
        }
    )
    fitted = Fitted(vocabularies={}, scales={"rate": Scale(mean=0.0, deviation=1.0)}, edges={})
    parts = zip(*(in_order(key, *each) for each in HELD), strict=True)
    tables = {
        "user": Table("user", [strings(["1"])], {}),
        "item": Table("item", [strings(ITEMS)], {}),
        "tab_item": Table(
            "tab_item", [strings(part) for part in parts], {"rate": Numbers(np.array([*HELD.values()]))}
        ),
    }
    return Encoder(schema.model_copy(update={"fitted": fitted}), {}, tables)


ENCODER = beside_encoder()
IN_ANY_ORDER = [
    ENCODER,
    beside_encoder(("item.item_id", "context.tab")),
    beside_encoder(("user.city", "item.item_id", "context.tab")),
]


def asked(*ids: str, tab: str | None = "feed") -> Brought:
    """A request for some items in a tab."""
    return Brought("1", {"city": "here"}, {"tab": tab}, ids, {})


def rates(known: Brought) -> list[float]:
    """What the completed request's candidates are encoded to."""
    rates: list[float] = known.encode(ENCODER).cross.value[:, 0].tolist()
    return rates


ASKED = st.sampled_from([*ITEMS[:2], BEYOND])  # so few that they meet
ROWS = st.tuples(
    st.tuples(st.sampled_from(TABS[:2]), ASKED),
    st.fixed_dictionaries({}, optional={"rate": st.sampled_from(RATES), "unread": st.just(1)}),
)
REQUESTS = st.builds(
    lambda ids, tab: asked(*ids, tab=tab),
    st.lists(ASKED, min_size=1, max_size=4),
    st.sampled_from([*TABS[:2], None]),
)


@pytest.mark.parametrize("encoder", IN_ANY_ORDER)
@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS | REQUESTS, min_size=3, max_size=15), st.integers(0, 2))
async def test_every_request_sees_the_rows_as_they_are(
    encoder: Encoder, history: Sequence[tuple[tuple[str, str], Mapping[str, Value]] | Brought], near_rows: int
) -> None:
    """Whatever changed before and whoever asked before, however little is noted and in whatever order."""
    store = HeldStore({})
    finds = Lookup(near_cache(store), Telemetry(), near_rows)
    stored: dict[RowKey, Mapping[str, Value]] = {}
    for stamp, event in enumerate(history):
        if isinstance(event, Brought):
            known, sound = await finds.complete(encoder, event, 10)
            truth = merged(encoder, stored)
            assert sound
            assert same(effective(encoder, known.encode(encoder)), effective(truth, event.encode(truth)))
        else:
            parts, fields = event
            key = ("tab_item", *in_order(encoder.schema.tables["tab_item"], *parts))
            stored[key], store.rows[key] = fields, Row(stamp, fields)
            finds.drop([key])


async def test_a_row_that_tells_nothing_is_not_looked_up_again() -> None:
    """Not even where it is near no more; one that tells something is, and one of an unknown item."""
    store = HeldStore({("tab_item", "feed", "1"): {"rate": 0.75}})
    near = near_cache(store)
    finds = Lookup(near, Telemetry())
    await finds.complete(ENCODER, asked("0", "1", "2", BEYOND), 10)
    near.drop(None)
    known, _ = await finds.complete(ENCODER, asked("0", "1", "2", BEYOND), 10)
    assert store.fetches[1:] == [[("tab_item", "feed", "1"), ("tab_item", "feed", BEYOND)]]
    assert rates(known)[1] == 0.75


async def test_a_change_during_a_fetch_is_seen() -> None:
    """What was found before it is not kept as telling nothing."""
    store = HeldStore({})
    finds = Lookup(near_cache(store), Telemetry())
    store.free.clear()
    first = asyncio.create_task(finds.complete(ENCODER, asked("0"), 10))
    while not store.fetches:  # noqa: ASYNC110  there is no event
        await asyncio.sleep(0)
    store.rows["tab_item", "feed", "0"] = Row(2, {"rate": 0.75})
    finds.drop([("tab_item", "feed", "0")])
    store.free.set()
    assert rates((await first)[0]) == [0.125]
    assert rates((await finds.complete(ENCODER, asked("0"), 10))[0]) == [0.75]


async def test_a_view_is_of_its_own_entry() -> None:
    """One made before a change says nothing of the row that is near since."""
    (reads,) = table_reads(ENCODER.schema, ENCODER.attributes)
    near, key, view = near_cache(HeldStore({})), ("tab_item", "feed", "0"), View({}, (), True)
    await near.fetch([key], 10)
    (entry,) = near.entries([key])
    assert entry is not None
    entry.see(reads, view)
    assert near.silent_until([key], [view]) == [entry.since + 3_600]
    near.drop([key])
    assert near.silent_until([key], [view]) == [-math.inf]
    await near.fetch([key], 10)
    assert near.silent_until([key], [view]) == [-math.inf]


async def test_it_ends_with_the_time_to_live_and_with_what_is_heard() -> None:
    """As what is near does: after its time, and a second after the last that is heard of changes."""
    store, clock = HeldStore({}), Clock()
    near = NearCache(store, entries=100, ttl_s=60, telemetry=Telemetry(), clock=clock)
    finds = Lookup(near, Telemetry())
    finds.hears(True)
    for seconds, fetches in ((0, 1), (59, 1), (2, 2)):
        clock.now += seconds
        await finds.complete(ENCODER, asked("0"), 10)
        assert len(store.fetches) == fetches
    finds.hears(False)
    clock.now += 2
    await finds.complete(ENCODER, asked("0"), 10)
    assert len(store.fetches) == 3


async def test_what_the_store_could_not_tell_is_asked_again() -> None:
    """A store that fails says nothing of a row, and so not that it tells nothing."""
    store = HeldStore({("tab_item", "feed", "0"): {"rate": 0.75}})
    finds = Lookup(near_cache(store), Telemetry())
    store.failing = True
    assert not (await finds.complete(ENCODER, asked("0"), 10))[1]
    store.failing = False
    known, sound = await finds.complete(ENCODER, asked("0"), 10)
    assert (rates(known), sound) == ([0.75], True)


def test_the_parts_that_were_asked_for_longest_ago_go_first() -> None:
    """And a catalogue too large for any is not noted."""
    (reads,) = table_reads(ENCODER.schema, ENCODER.attributes)
    rows = ENCODER.item_rows(["0", "1"])
    count = len(ENCODER.items)
    silent = Silent(ENCODER, reads, -(-2 * count // PLACES))
    for tab in TABS[:2]:
        silent.learn((tab,), rows, [9.0, 9.0])
    assert not len(silent.unknown(("feed",), rows, 0.0))
    silent.learn(("follow",), rows, [9.0, 9.0])
    assert [len(silent.unknown((tab,), rows, 0.0)) for tab in TABS] == [0, 2, 0]
    assert len(silent.unknown(("feed",), rows, 9.0)) == 2
    none = Silent(ENCODER, reads, 0)
    none.learn(("feed",), rows, [9.0, 9.0])
    assert len(none.unknown(("feed",), rows, 0.0)) == 2


def test_what_tells_nothing_of_no_item_is_not_noted() -> None:
    """Where nothing was found, or only of items beyond the catalogue: it would push out what is of use."""
    (reads,) = table_reads(ENCODER.schema, ENCODER.attributes)
    rows, beyond = ENCODER.item_rows(["0"]), ENCODER.item_rows([BEYOND])
    silent = Silent(ENCODER, reads, -(-2 * len(ENCODER.items) // PLACES))  # room for two tabs
    silent.learn(("feed",), rows, [9.0])
    silent.learn(("search",), rows, [-math.inf])
    silent.learn(("follow",), beyond, [9.0])
    assert not len(silent.unknown(("feed",), rows, 0.0))


def test_only_tables_by_the_item_and_the_request_are_noted() -> None:
    """Not those whose key is the request's alone, the item's, one user's, or made of what is said of it."""
    tiny = table_reads(TINY.schema, TINY.attributes)
    assert [reads.name for reads in tiny if reads.beside_items] == []
    assert [reads.name for reads in table_reads(ENCODER.schema, ()) if reads.beside_items] == ["tab_item"]
    one_users = beside_encoder(("user.user_id", "item.item_id", "context.tab"))
    assert [reads.name for reads in table_reads(one_users.schema, ()) if reads.beside_items] == []
