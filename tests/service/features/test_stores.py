"""What every feature store promises: the same properties of memory and of a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from benchmarks.redis_server import RedisServer
from service.errors import StoreFailed
from service.features.memory import MemoryFeatureStore
from service.features.redis import RedisFeatureStore
from service.features.store import FeatureStore, Row, RowKey
from tests.service.features.stores import PATIENT
from tests.service.shelf import until

ROW = Row(1, {"length": 3.5, "tags": ["a", "b"], "author": "x", "fans": 7, "new": True, "gone": None})
KEYS = st.lists(st.text(max_size=8), min_size=1, max_size=3).map(lambda parts: ("t", *parts))
SINGLE = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
FIELDS = st.dictionaries(st.text(), st.one_of(st.none(), SINGLE, st.lists(SINGLE)), max_size=5)

Told = tuple[set[RowKey], dict[RowKey, Row]]


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FeatureStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryFeatureStore()
        return
    server: RedisServer = request.getfixturevalue("redis")
    found = RedisFeatureStore(server.url, PATIENT)
    yield found
    await found.close()


@asynccontextmanager
async def following(store: FeatureStore) -> AsyncIterator[list[Told]]:
    """What a follower has been told of since it began to hear."""
    told: list[Told] = []
    heard: list[bool] = []
    task = asyncio.create_task(
        store.follow(lambda keys, rows: told.append((set(keys or ()), dict(rows))), heard.append)
    )
    try:
        await until(lambda: heard[:1] == [True])
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_put_is_found(store: FeatureStore) -> None:
    """Every kind of value, with the stamp; and of other keys nothing."""
    assert await store.put({("item", "1"): ROW, ("user", "1"): Row(2, {})}) == 2
    found = await store.fetch([("item", "1"), ("user", "1"), ("item", "2"), ("other", "1")])
    assert found == {("item", "1"): ROW, ("user", "1"): Row(2, {})}
    assert not store.empty
    assert store.state == "ok"


async def test_the_later_row_stays(store: FeatureStore) -> None:
    """Whichever comes first; of two of the same time the one that came last."""
    key = ("item", "1")
    for stamp, wrote in ((5, 1), (3, 0), (5, 1), (2**50, 1), (2**50 - 1, 0)):
        assert await store.put({key: Row(stamp, {"came": stamp})}) == wrote
    assert await store.fetch([key]) == {key: Row(2**50, {"came": 2**50})}


async def test_a_row_is_replaced_whole(store: FeatureStore) -> None:
    """A field that the new row lacks is gone from the store."""
    key = ("item", "1")
    await store.put({key: Row(1, {"a": 1, "b": 2})})
    await store.put({key: Row(2, {"b": 3})})
    assert await store.fetch([key]) == {key: Row(2, {"b": 3})}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.dictionaries(KEYS, FIELDS, min_size=1, max_size=8))
def test_any_keys_and_values_come_back(redis: RedisServer, rows: dict[RowKey, dict[str, object]]) -> None:
    """Colons, percent signs, empty parts and all: two keys are never taken for one."""

    async def check() -> None:
        stores: list[FeatureStore] = [MemoryFeatureStore(), RedisFeatureStore(redis.url, PATIENT)]
        for store in stores:
            await store.put({key: Row(9, fields) for key, fields in rows.items()})  # type: ignore[arg-type]
            found = await store.fetch(list(rows))
            assert {key: row.fields for key, row in found.items() if row} == rows
            await store.close()

    asyncio.run(check())


async def test_no_two_keys_are_one(store: FeatureStore) -> None:
    """Not even where one is what the other is written as."""
    keys: list[RowKey] = [
        ("item", "a:b"),
        ("item", "a%3Ab"),
        ("item", "a", "b"),
        ("item", "a%253Ab"),
        ("item:a", "b"),
    ]
    await store.put({key: Row(9, {"at": at}) for at, key in enumerate(keys)})
    assert await store.fetch(keys) == {key: Row(9, {"at": at}) for at, key in enumerate(keys)}


async def test_followers_hear_of_what_was_put(store: FeatureStore) -> None:
    """The keys and the rows, whoever put them; of rows that were not written nothing."""
    rows: dict[RowKey, Row] = {("item", "1"): Row(2, {}), ("user_tag", "3", "a:b"): ROW}
    more: dict[RowKey, Row] = {("item", "2"): Row(1, {"length": 3.5})}
    async with following(store) as one, following(store) as other:
        await store.put(rows)
        assert await store.put({("item", "1"): Row(1, {})}) == 0
        await store.put(more)
        for told in (one, other):
            await until(lambda told=told: len(told) == 2)  # type: ignore[misc]
            assert told == [(set(rows), rows), (set(more), more)]
    await store.put({("item", "3"): ROW})
    assert len(one) == 2


async def test_a_row_that_was_not_written_is_not_brought(store: FeatureStore) -> None:
    """A later one is there: who hears of the rows beside it must not take it for what holds."""
    later, first = ("item", "1"), ("item", "2")
    await store.put({later: Row(2, {"length": 3.5})})
    async with following(store) as told:
        assert await store.put({later: Row(1, {}), first: Row(1, {})}) == 1
        await until(lambda: len(told) == 1)
        ((keys, rows),) = told
        assert first in keys
        assert later not in rows


async def test_the_time_is_the_same_for_all_who_write(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of Redis, whatever the clock of this host says."""
    store = RedisFeatureStore(redis.url, PATIENT)
    before = await store.now_ms()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    async with Redis.from_url(redis.url) as client:
        seconds, _ = await client.time()
    assert before // 1_000 <= seconds <= await store.now_ms() // 1_000
    await store.close()


async def test_a_memory_store_is_bounded() -> None:
    """It takes no rows beyond its most, and says what to do; the ones that it has may change."""
    store = MemoryFeatureStore(most=2)
    await store.put({("item", "1"): ROW, ("item", "2"): ROW})
    with pytest.raises(StoreFailed, match="Redis"):
        await store.put({("item", "1"): Row(2, {}), ("item", "3"): ROW})
    assert await store.put({("item", "1"): Row(2, {})}) == 1
    assert await store.fetch([("item", "3")]) == {}
