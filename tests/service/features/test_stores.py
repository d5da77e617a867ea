"""What every feature store promises: the same properties of memory and of a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.redis_server import RedisServer
from service.features.memory import MemoryFeatureStore
from service.features.redis import RedisFeatureStore
from service.features.store import FeatureStore, Row, RowKey
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


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FeatureStore]:
    """An empty store."""
    if request.param == "memory":
        yield MemoryFeatureStore()
        return
    server: RedisServer = request.getfixturevalue("redis")
    found = RedisFeatureStore(server.url)
    yield found
    await found.close()


@asynccontextmanager
async def following(store: FeatureStore) -> AsyncIterator[list[Collection[RowKey] | None]]:
    """What a follower has been told since it began to be told all."""
    told: list[Collection[RowKey] | None] = []
    task = asyncio.create_task(store.follow(told.append))
    try:
        await until(lambda: told == [None])
        told.clear()
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
    assert store.state == "closed"


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
        stores: list[FeatureStore] = [MemoryFeatureStore(), RedisFeatureStore(redis.url)]
        for store in stores:
            await store.put({key: Row(9, fields) for key, fields in rows.items()})  # type: ignore[arg-type]
            found = await store.fetch(list(rows))
            assert {key: row.fields for key, row in found.items() if row} == rows
            await store.close()

    asyncio.run(check())


async def test_followers_hear_of_what_was_put(store: FeatureStore) -> None:
    """The keys, whoever put them; and first that anything may have changed."""
    async with following(store) as one, following(store) as other:
        await store.put({("item", "1"): ROW, ("user_tag", "3", "a:b"): ROW})
        for told in (one, other):
            await until(lambda told=told: told)  # type: ignore[misc]
            assert [set(keys or ()) for keys in told] == [{("item", "1"), ("user_tag", "3", "a:b")}]
    await store.put({("item", "1"): ROW})
    assert len(one) == 1
