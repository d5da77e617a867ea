"""What a second request gets of rows that are near: until they change, and where the store fails."""

from __future__ import annotations

import asyncio

from service.features.lookup import Lookup
from service.features.near import NearCache
from service.features.search import VIEWED_AT_ONCE
from service.features.store import Row, RowKey
from service.telemetry import Telemetry
from tests.service.features.merged import told_lengths
from tests.service.features.stores import HeldStore
from tests.service.features.test_breaker import Clock
from tests.service.features.test_lookup import ENCODER, asked, lookup, near_cache
from tests.service.test_telemetry import figures
from tests.tiny_features import tiny_encoder


async def test_a_store_that_fails_leaves_what_is_near() -> None:
    """The rows that are near still hold, what is missing is the table's, and the answer is degraded."""
    store = HeldStore({("item", "0"): {"length": 77}, ("item", "1"): {"length": 88}})
    finds = lookup(store)
    await finds.complete(ENCODER, asked(["0"]), 10)
    store.failing = True
    known, sound = await finds.complete(ENCODER, asked(["0"]), 10)
    assert (told_lengths(known), sound) == ({0: 77}, True)
    known, sound = await finds.complete(ENCODER, asked(["0", "1"]), 10)
    assert (told_lengths(known), sound) == ({0: 77}, False)
    store.failing = False
    known, sound = await finds.complete(ENCODER, asked(["0", "1"]), 10)
    assert (told_lengths(known), sound) == ({0: 77, 1: 88}, True)


async def test_a_change_during_a_fetch_reaches_the_next_request() -> None:
    """Nothing is kept of the old row, nor that there was none, whatever was made of it meanwhile."""
    store = HeldStore({("item", "0"): {"length": 77}})
    near = near_cache(store)
    finds = Lookup(near, Telemetry())
    store.free.clear()
    first = asyncio.create_task(finds.complete(ENCODER, asked(["0", "new"]), 10))
    while not store.fetches:  # noqa: ASYNC110
        await asyncio.sleep(0)
    changed: list[RowKey] = [("item", "0"), ("item", "new")]
    store.rows |= dict.fromkeys(changed, Row(2, {"length": 88}))
    finds.drop(changed)
    store.free.set()
    assert told_lengths((await first)[0]) == {0: 77}
    known, _ = await finds.complete(ENCODER, asked(["0", "new"]), 10)
    assert told_lengths(known) == {0: 88, 1: 88}


async def test_what_may_be_stale_serves_where_the_store_fails() -> None:
    """Better than none, and the answer is marked; the store is asked all the same."""
    store = HeldStore({("item", "0"): {"length": 77}})
    near = NearCache(store, entries=100, ttl_s=3_600, telemetry=Telemetry(), clock=(clock := Clock()))
    finds = Lookup(near, Telemetry())
    await finds.complete(ENCODER, asked(["0"]), 10)
    clock.now += 2
    store.failing = True
    known, sound = await finds.complete(ENCODER, asked(["0"]), 10)
    assert (told_lengths(known), sound) == ({0: 77}, False)
    store.failing = False
    store.rows["item", "0"] = Row(2, {"length": 88})
    known, sound = await finds.complete(ENCODER, asked(["0"]), 10)
    assert (told_lengths(known), sound) == ({0: 88}, True)


async def test_many_cold_rows_leave_others_their_turn() -> None:
    """However many rows a request finds, others go on in between."""
    ids = [str(at) for at in range(5 * VIEWED_AT_ONCE)]
    store = HeldStore({("item", item): {"length": 77, "author": "zz"} for item in ids})
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    finds = lookup(store)
    await finds.complete(
        tiny_encoder(), asked(ids), 10
    )  # the rows are near; another version has yet to read them
    going = asyncio.create_task(others())
    await asyncio.sleep(0)
    turns = 0
    known, _ = await finds.complete(ENCODER, asked(ids), 10)
    going.cancel()
    assert len(told_lengths(known)) == len(ids)
    assert turns >= 4


async def test_what_is_found_near_is_counted() -> None:
    """Of a request's keys those that are near, those that are not, and none for a key that lacks a part."""
    telemetry = Telemetry()
    finds = Lookup(near_cache(HeldStore()), telemetry)
    brought = asked(
        ["0", "new"], user_id=None, inline={0: {"author": "a1"}}
    )  # nobody's city, no author of "new"
    for _ in range(3):
        await finds.complete(ENCODER, brought, 10)
    counted = figures(telemetry)
    assert counted['rankserve_near_rows_total{found="no"}'] == 3
    assert counted['rankserve_near_rows_total{found="yes"}'] == 6


async def test_a_change_reaches_the_next_request() -> None:
    """What was made of the old row goes with it."""
    store = HeldStore({("item", "0"): {"length": 77}})
    near = near_cache(store)
    finds = Lookup(near, Telemetry())
    await finds.complete(ENCODER, asked(["0"]), 10)
    store.rows["item", "0"] = Row(2, {"length": 88})
    finds.drop([("item", "0")])
    known, _ = await finds.complete(ENCODER, asked(["0"]), 10)
    assert told_lengths(known) == {0: 88}
