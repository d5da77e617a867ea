"""Items that have changed: ranked as they were until they are looked up anew, and not for long."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.features import lookup, renewal
from service.features.lookup import Lookup
from service.features.near import NearCache
from service.features.store import Row, RowKey
from service.telemetry import Telemetry
from tests.service.features.merged import merged, told_lengths
from tests.service.features.stores import HeldStore
from tests.service.features.test_breaker import Clock
from tests.service.features.test_features import completed, features
from tests.service.features.test_known import OF_ITEMS, Fields
from tests.service.features.test_lookup import AUTHORS, ENCODER, as_if_held, asked, near_cache
from tests.service.test_telemetry import figures
from tests.tiny_features import tiny_encoder

ITEM, OTHER = ("item", "0"), ("item", "1")
LIMIT_S = 30.0
LOG = "service.tasks"


async def length(finds: Lookup, *items: str) -> dict[int, object]:
    """What a request for some items is told, by position."""
    known, sound = await finds.complete(ENCODER, asked(items or ["0"]), LIMIT_S)
    assert sound
    return dict(told_lengths(known))


async def renew(finds: Lookup) -> None:
    """Look up what has changed, for all versions."""
    await asyncio.gather(*finds.renew(LIMIT_S))


def cache(store: HeldStore, clock: Clock) -> NearCache:
    """One whose time passes when it is told to, and that hears of changes."""
    near = NearCache(store, entries=100, ttl_s=60, telemetry=Telemetry(), clock=clock)
    near.hears(True)
    return near


def near_rows(telemetry: Telemetry) -> dict[str, float]:
    """What was found near, and what not."""
    return {name: count for name, count in figures(telemetry).items() if "near_rows_total" in name}


async def test_what_is_known_serves_on_for_so_long() -> None:
    """Without a look into the store; then it is asked, and tells the new row."""
    store, clock = HeldStore({ITEM: {"length": 77}}), Clock()
    finds = Lookup(cache(store, clock), Telemetry())
    assert await length(finds) == {0: 77}
    store.rows[ITEM] = Row(2, {"length": 88})
    assert finds.drop([ITEM], 0.5)
    clock.now += 0.4
    assert (await length(finds), len(store.fetches)) == ({0: 77}, 1)
    clock.now += 0.2
    assert (await length(finds), len(store.fetches)) == ({0: 88}, 2)


async def test_what_nobody_knew_is_not_looked_up() -> None:
    """Nor what has not changed; and what has, by one fetch for all."""
    store = HeldStore({ITEM: {"length": 77}, OTHER: {"length": 78}})
    finds = Lookup(near_cache(store), Telemetry())
    await length(finds, "0", "1", "2")
    store.rows |= {ITEM: Row(2, {"length": 88}), OTHER: Row(2, {"length": 89})}
    finds.drop([ITEM], 0.5)
    assert finds.drop([OTHER, ("item", "50"), ("user", "1")], 0.5)
    await renew(finds)
    assert [sorted(key for key in keys if key[0] == "item") for keys in store.fetches[1:]] == [[ITEM, OTHER]]
    assert (await length(finds, "0", "1"), len(store.fetches)) == ({0: 88, 1: 89}, 3)  # the third of the user
    assert not finds.drop([("item", "50")], 0.5)


async def test_a_change_meanwhile_is_not_learned_over() -> None:
    """It is looked up once more: of two rows the later one holds."""
    store = HeldStore({ITEM: {"length": 77}})
    finds = Lookup(near_cache(store), Telemetry())
    await length(finds)
    store.rows[ITEM] = Row(2, {"length": 88})
    finds.drop([ITEM], 0.5)
    store.free.clear()
    renewing = asyncio.create_task(renew(finds))
    while len(store.fetches) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    store.rows[ITEM] = Row(3, {"length": 99})
    assert finds.drop([ITEM], 0.5)
    store.free.set()
    await renewing
    assert (await length(finds), len(store.fetches)) == ({0: 77}, 2)
    await renew(finds)
    assert await length(finds) == {0: 99}


async def test_no_more_are_looked_up_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request looks the others up itself, once they may serve no more."""
    monkeypatch.setattr(lookup, "MOST_DUE", 1)
    store = HeldStore({ITEM: {"length": 77}, OTHER: {"length": 78}})
    finds = Lookup(near_cache(store), Telemetry())
    await length(finds, "0", "1")
    store.rows |= {ITEM: Row(2, {"length": 88}), OTHER: Row(2, {"length": 89})}
    finds.drop([ITEM, OTHER])
    await renew(finds)
    assert len([key for key in store.fetches[1] if key[0] == "item"]) == 1
    assert await length(finds, "0", "1") == {0: 88, 1: 89}


@pytest.mark.parametrize("brings", [False, True])
async def test_no_request_waits_for_what_another_worker_wrote(brings: bool) -> None:
    """It is ranked as it was known, and soon as it is; all that without a request that asks the store.

    Nor does anybody else, where the notice brings the row.
    """
    store = HeldStore({ITEM: {"length": 77}})
    store.brings = brings
    async with features(store) as found:
        await completed(found, asked(["0"]))
        store.free.clear()
        store.rows[ITEM] = Row(2, {"length": 88})
        await store.inner.put({ITEM: Row(2, {"length": 88})})  # as another would
        with pytest.raises(StopIteration) as returned:
            completed(found, asked(["0"])).send(None)
        assert told_lengths(returned.value.value[0]) == {0: 77}
        store.free.set()
        async with asyncio.timeout(LIMIT_S):
            while told_lengths((await completed(found, asked(["0"])))[0]) != {0: 88}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(store.fetches) == (1 if brings else 2)


@pytest.mark.parametrize("at_once", [1, 3, 200])
@settings(max_examples=30, deadline=None)
@given(st.data())
async def test_what_is_renewed_is_known_as_it_is(at_once: int, data: st.DataObject) -> None:
    """As if the version's tables had held it, so many at a time as may be; no request asks for its rows."""
    stored: dict[RowKey, Fields] = {("user_author", "1", author): {"rate": 0.2} for author in AUTHORS}
    store = HeldStore(stored)
    finds, brought = Lookup(near_cache(store), Telemetry()), asked(["0", "1", "50", "199", "new"])
    await finds.complete(ENCODER, brought, LIMIT_S)
    for stamp in range(2):
        changed = dict[RowKey, Fields](data.draw(st.lists(OF_ITEMS, min_size=1, max_size=6)))
        stored |= changed
        store.rows |= {key: Row(stamp, fields) for key, fields in changed.items()}
        finds.drop(changed.keys(), 0.5)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(renewal, "RENEWED_AT_ONCE", at_once)
            await renew(finds)
        await finds.complete(ENCODER, asked(["new"]), LIMIT_S)  # which nothing is known of
        store.fetches.clear()
        known, sound = await finds.complete(ENCODER, brought, LIMIT_S)
        assert sound
        assert {key[0] for keys in store.fetches for key in keys} <= {"user_author"}
        as_if_held(known, brought, merged(ENCODER, stored))


@pytest.mark.parametrize("fields", [{"length": "long"}, {"author": ["a1"]}, {"cover": [1.0]}, None])
async def test_a_row_that_cannot_be_read_is_left_to_requests(fields: Fields | None) -> None:
    """They tell of it once it serves no more; the items beside it are known all the same."""
    ids, clock = [str(at) for at in range(7)], Clock()
    store = HeldStore()
    finds = Lookup(cache(store, clock), Telemetry())
    await length(finds, *ids)
    store.rows |= {("item", item_id): Row(2, {"length": 88}) for item_id in ids}
    store.rows["item", "3"] = None if fields is None else Row(2, fields)
    finds.drop([("item", item_id) for item_id in ids], 0.5)
    await renew(finds)
    for told in (True, False):
        known, sound = await finds.complete(ENCODER, asked(ids), LIMIT_S)
        assert (told_lengths(known), sound) == (dict.fromkeys({0, 1, 2, 4, 5, 6}, 88), told)
        clock.now += 0.6


async def test_a_version_s_own_row_renews_nothing() -> None:
    """As `features load` writes it: the item is as in the catalogue, and known to be."""
    store = HeldStore({ITEM: {"length": 77}})
    finds = Lookup(near_cache(store), Telemetry())
    assert await length(finds) == {0: 77}
    store.rows[ITEM] = Row(2, {"length": 88}, "v1")
    finds.drop([ITEM], 0.5)
    await renew(finds)
    assert (await length(finds), len(store.fetches)) == ({}, 2)


async def test_what_cannot_be_looked_up_serves_no_longer() -> None:
    """A request asks the store itself by then, and is marked where that does not answer."""
    store, clock = HeldStore({ITEM: {"length": 77}}), Clock()
    finds = Lookup(cache(store, clock), Telemetry())
    await length(finds)
    finds.drop([ITEM], 0.5)
    store.failing = True
    await renew(finds)
    clock.now += 0.4
    assert await length(finds) == {0: 77}
    clock.now += 0.2
    known, sound = await finds.complete(ENCODER, asked(["0"]), LIMIT_S)
    assert (told_lengths(known), sound) == ({}, False)


async def test_what_is_looked_up_behind_requests_is_not_counted() -> None:
    """The metric says what requests found near."""
    telemetry = Telemetry()
    finds = Lookup(near_cache(HeldStore({ITEM: {"length": 77}})), telemetry)
    await length(finds)
    before = near_rows(telemetry)
    finds.drop([ITEM], 0.5)
    await renew(finds)
    assert near_rows(telemetry) == before


async def test_a_version_whose_rows_break_the_store_leaves_the_others_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are looked up all the same, and the log tells of the one at once."""
    store = HeldStore({ITEM: {"length": 77}, OTHER: {"length": 78}})
    version, other = (tiny_encoder(leave_out=("author_seen",)) for _ in range(2))
    async with features(store) as found:
        deadline = asyncio.get_running_loop().time() + LIMIT_S
        await found.complete(version, asked(["0"]), deadline)
        await found.complete(other, asked(["1"]), deadline)
        store.breaks_at, store.brings = ITEM, False
        store.rows[OTHER] = Row(2, {"length": 88})
        await store.inner.put({ITEM: Row(2, {}), OTHER: Row(2, {})})  # as another worker would
        async with asyncio.timeout(LIMIT_S):
            while told_lengths((await found.complete(other, asked(["1"]), deadline))[0]) != {0: 88}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(store.fetches) == 4
        (record,) = [record for record in caplog.records if record.name == LOG]
        assert record.exc_info is not None
        assert "breaks on purpose" in str(record.exc_info[1])


async def test_a_follower_that_breaks_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and not when the task happens to be collected."""
    store = HeldStore()
    store.follow_breaks = True
    async with features(store):
        await asyncio.sleep(0)
        assert [record.name for record in caplog.records] == [LOG]
