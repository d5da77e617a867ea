"""What is known of the items of a version: never beyond a change, never beyond its time, and bounded."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.columns import Value
from service.features.brought import Brought
from service.features.lookup import Lookup
from service.features.near import NearCache
from service.features.search import VIEWED_AT_ONCE
from service.features.store import Row, RowKey
from service.telemetry import Telemetry
from tests.service.features.merged import merged, told_lengths
from tests.service.features.stores import HeldStore
from tests.service.features.test_breaker import Clock
from tests.service.features.test_lookup import (
    AUTHORS,
    ENCODER,
    FIELDS,
    ITEMS,
    as_if_held,
    asked,
    near_cache,
    requests,
)
from tests.tiny_features import tiny_encoder

Fields = Mapping[str, Value]
OF_ITEMS = st.one_of(
    st.tuples(
        st.tuples(st.just("item"), st.sampled_from(ITEMS)),
        st.fixed_dictionaries({}, optional=FIELDS["item"]),
    ),
    st.tuples(
        st.tuples(st.just("author_stats"), st.sampled_from(AUTHORS)),
        st.fixed_dictionaries({}, optional=FIELDS["author_stats"]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(OF_ITEMS | requests() | st.none(), min_size=3, max_size=12), st.integers(1, 3))
async def test_every_request_sees_the_rows_as_they_are(
    history: Sequence[tuple[RowKey, Fields] | Brought | None], most: int
) -> None:
    """Whatever changed before and whoever asked before, and however few changed items are kept.

    And whether or not what has changed was looked up between two requests.
    """
    store = HeldStore({})
    finds = Lookup(near_cache(store), Telemetry(), most)
    stored: dict[RowKey, Fields] = {}
    for stamp, event in enumerate(history):
        if isinstance(event, Brought):
            known, sound = await finds.complete(ENCODER, event, 10)
            assert sound
            as_if_held(known, event, merged(ENCODER, stored))
        elif event is None:
            await asyncio.gather(*finds.renew(10))
        else:
            key, fields = event
            stored[key], store.rows[key] = fields, Row(stamp, fields)
            finds.drop([key])


async def test_items_that_are_known_are_not_looked_up() -> None:
    """Neither in the store nor in the near cache, which may have forgotten them; and they keep their ids."""
    store = HeldStore({("item", "0"): {"length": 77}})
    near = near_cache(store)
    finds = Lookup(near, Telemetry())
    first, _ = await finds.complete(ENCODER, asked(["0", "1"]), 10)
    near.drop([("item", "0"), ("item", "1")])
    again = [(await finds.complete(ENCODER, asked(ids), 10))[0] for ids in (["0", "1"], ["1", "0"])]
    assert len(store.fetches) == 1
    one, other = (known.encode(ENCODER) for known in again)
    assert (one.fresh_at.tolist(), other.fresh_at.tolist()) == ([0], [1])
    assert first.encode(ENCODER).fresh_id.tolist() == one.fresh_id.tolist() == other.fresh_id.tolist() != [0]


async def test_an_id_never_stands_for_two_states() -> None:
    """An item that changes gets another; one whose place another took does, too."""
    store = HeldStore({("item", "0"): {"length": 77}, ("item", "1"): {"length": 88}})
    finds = Lookup(near_cache(store), Telemetry(), 1)
    seen: dict[int, list[bytes]] = {}
    for turn in range(6):
        for item_id in ("0", "1"):
            for _ in range(2):
                known, _ = await finds.complete(ENCODER, asked([item_id]), 10)
                encoded = known.encode(ENCODER)
                assert encoded.fresh is not None
                state = encoded.fresh.index.tobytes() + encoded.fresh.value.tobytes()
                for number in encoded.fresh_id.tolist():
                    seen.setdefault(number, []).append(state)
        store.rows["item", "0"] = Row(turn, {"length": 77 + turn})
        finds.drop([("item", "0")])
    assert len(seen) > 6
    assert all(len(set(states)) == 1 for number, states in seen.items() if number)


async def test_a_change_during_a_fetch_is_not_learned_over() -> None:
    """What was fetched before a notice may be old: it is told to the request, and kept for none."""
    store = HeldStore({("item", "0"): {"length": 77}})
    finds = Lookup(near_cache(store), Telemetry())

    store.free.clear()
    asking = asyncio.create_task(finds.complete(ENCODER, asked(["0"]), 10))
    await asyncio.sleep(0.01)
    assert store.fetches
    store.rows["item", "0"] = Row(2, {"length": 88})
    finds.drop([("item", "0")])
    store.free.set()
    await asking
    known, _ = await finds.complete(ENCODER, asked(["0"]), 10)
    assert told_lengths(known) == {0: 88}


@pytest.mark.parametrize("heard", [True, False])
async def test_what_is_known_ends_with_the_rows_time_to_live(*, heard: bool) -> None:
    """And after a second where nothing is heard of changes."""
    store, clock = HeldStore({("item", "0"): {"length": 77}}), Clock()
    near = NearCache(store, entries=100, ttl_s=60, telemetry=Telemetry(), clock=clock)
    finds = Lookup(near, Telemetry())
    finds.hears(heard)
    start, lasts = clock.now, 60.0 if heard else 1.0
    await finds.complete(ENCODER, asked(["0"]), 10)
    store.rows["item", "0"] = Row(2, {"length": 88})
    for clock.now, length in ((start + 0.9 * lasts, 77), (start + 1.1 * lasts, 88)):
        known, _ = await finds.complete(ENCODER, asked(["0"]), 10)
        found = ENCODER.attribute("length", ENCODER.item_rows(["0"]), known.inline, known.items)
        assert found.tolist() == [length]


async def test_nothing_is_learned_of_a_store_that_does_not_answer() -> None:
    """Its items are asked for again, and the answer is marked each time."""
    store = HeldStore({("item", "0"): {"length": 77}})
    store.failing = True
    finds = Lookup(near_cache(store), Telemetry())
    for _ in range(2):
        known, sound = await finds.complete(ENCODER, asked(["0"]), 10)
        assert (known.inline, sound) == ({}, False)
    store.failing = False
    known, sound = await finds.complete(ENCODER, asked(["0"]), 10)
    assert (told_lengths(known), sound) == ({0: 77}, True)


async def test_more_changed_items_than_are_kept_are_all_told() -> None:
    """Of a request of five, two are kept; the others are looked up again each time."""
    ids = ["0", "1", "50", "199", "2"]
    stored: dict[RowKey, Fields] = {
        ("item", item_id): {"length": 1000 + at} for at, item_id in enumerate(ids)
    }
    finds = Lookup(near_cache(HeldStore(stored)), Telemetry(), 2)
    for _ in range(3):
        known, _ = await finds.complete(ENCODER, asked(ids), 10)
        found = ENCODER.attribute("length", ENCODER.item_rows(ids), known.inline, known.items)
        assert np.array_equal(found, 1000 + np.arange(5))


async def test_what_is_known_keeps_no_version_in_memory() -> None:
    """It goes with the encoder."""
    encoder = tiny_encoder(leave_out=("author_seen",))
    finds = Lookup(near_cache(HeldStore({("item", "0"): {"length": 77}})), Telemetry())
    await finds.complete(encoder, asked(["0"]), 10)
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("turns", range(1, 12))
async def test_a_late_answer_is_not_learned_as_none(turns: int) -> None:
    """A request that could not wait takes the catalogue's word; what arrives after is what the next ones see.

    So many rows that others have their turn between making views of them, when the late ones may arrive.
    """
    ids = [str(at) for at in range(3 * VIEWED_AT_ONCE)]
    store = HeldStore({("item", item_id): {"length": 77} for item_id in ids[:199]})
    finds = Lookup(near_cache(store), Telemetry())
    store.free.clear()

    def arrive(after: int) -> None:
        if after:
            asyncio.get_running_loop().call_soon(arrive, after - 1)
        else:
            store.free.set()

    arrive(turns)
    await finds.complete(ENCODER, asked(ids), 0)
    await asyncio.sleep(0.01)
    for _ in range(2):
        known, sound = await finds.complete(ENCODER, asked(ids), 10)
        assert sound
        assert list(told_lengths(known).values()) == [77] * 199


async def test_a_notice_of_another_table_forgets_only_who_reads_the_row() -> None:
    """And those who are looked up again and found the same keep their ids, and so their state."""
    authors = ENCODER.tables["item"].columns["author"]
    ids = [str(at) for at in range(50)]
    store = HeldStore({("item", item_id): {"length": 77} for item_id in ids})
    finds = Lookup(near_cache(store), Telemetry())
    first, _ = await finds.complete(ENCODER, asked(ids), 10)
    finds.drop([("author_stats", "nobody's")])
    await finds.complete(ENCODER, asked(ids), 10)
    assert len(store.fetches) == 1
    name = next(author for at in range(50) if (author := authors.at(at)) is not None)
    finds.drop([("author_stats", str(name)), ("item", "7")])
    again, _ = await finds.complete(ENCODER, asked(ids), 10)
    assert {key[0] for key in store.fetches[1]} == {"author_stats", "item"}
    assert first.encode(ENCODER).fresh_id.tolist() == again.encode(ENCODER).fresh_id.tolist()


async def test_keys_that_come_and_go_are_not_kept_for_ever() -> None:
    """An item whose author is another each time leaves no trace of all of them."""
    encoder = tiny_encoder(leave_out=("author_seen",))
    store = HeldStore()
    finds = Lookup(near_cache(store), Telemetry())
    sizes = set()
    for turn in range(3 * len(encoder.items)):
        store.rows["item", "0"] = Row(turn, {"author": f"author {turn}"})
        finds.drop([("item", "0")])
        known, _ = await finds.complete(encoder, asked(["0"]), 10)
        assert known.items is not None
        (held,) = finds._versions[encoder].items._keys.values()
        sizes.add(len(held._values))
    assert max(sizes) <= 2 * len(encoder.items) + 2


async def test_more_rows_than_others_can_wait_for_are_learned_in_turns() -> None:
    """However many items a request finds changed, others go on in between."""
    ids = [str(at) for at in range(2 * VIEWED_AT_ONCE)]
    store = HeldStore({("item", item_id): {"length": 77} for item_id in ids})
    finds = Lookup(near_cache(store), Telemetry())
    known, _ = await finds.complete(ENCODER, asked(ids), 10)
    assert known.items is not None
    assert sorted(known.items.revised.tolist()) == list(range(len(ids)))
    assert len(set(known.items.ids.tolist())) == len(ids)
