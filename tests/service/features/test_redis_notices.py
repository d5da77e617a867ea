"""How a worker hears of changes in a real Redis, and what it does while it cannot."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis.asyncio import Redis

from benchmarks.redis_server import RedisServer
from service.features import notices
from service.features import redis as store_of_redis
from service.features.redis import RedisFeatureStore
from service.features.store import Row
from tests.service.features.stores import PATIENT
from tests.service.features.test_redis_faults import (
    DEADLINE_S,
    HEALTHY,
    LENGTH,
    answer,
    eventually,
    features,
    put,
)


async def test_a_change_reaches_every_instance(redis: RedisServer) -> None:
    """What is near there is forgotten, also after the connection that tells of changes was lost."""
    async with features(redis.url, ttl_s=3_600) as one, features(redis.url, ttl_s=3_600) as other:
        await one.put(LENGTH)
        await eventually(other, HEALTHY)
        await one.put({("item", "0"): {"length": 88}})
        assert (await answer(one))[0] == 88
        await eventually(other, (88, ()))
        async with Redis.from_url(redis.url) as client:
            await client.client_kill_filter(_type="pubsub")
            await client.set("rankserve:item:0", b"")  # nobody is told
        await eventually(other, (None, ("redis",)))


async def test_a_notice_brings_the_rows(redis: RedisServer) -> None:
    """They hold without a look into Redis, which has others by then that nobody was told of."""
    async with features(redis.url, ttl_s=3_600) as found, Redis.from_url(redis.url) as client:
        await found.put(LENGTH)
        await eventually(found, HEALTHY)
        _, whole = notices.pack({("item", "0"): Row(1, {"length": 88})})
        async with asyncio.timeout(DEADLINE_S):
            while await answer(found) != (88, ()):  # the row is near by then, but maybe not heard of
                await client.publish("rankserve:changes", whole)
                await asyncio.sleep(0.01)


async def test_a_notice_that_cannot_be_read_is_taken_for_all(redis: RedisServer) -> None:
    """Better to ask again than to be wrong."""
    async with features(redis.url, ttl_s=3_600) as found, Redis.from_url(redis.url) as client:
        await found.put(LENGTH)
        await eventually(found, HEALTHY)
        await client.delete("rankserve:item:0")
        async with asyncio.timeout(DEADLINE_S):
            while await client.publish("rankserve:changes", b"\xc1") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await eventually(found, (None, ()))


async def test_without_a_right_to_hear_of_changes(redis: RedisServer) -> None:
    """Rows are asked for again after a second, however long they may be near: no change is missed."""
    async with Redis.from_url(redis.url) as client:
        await client.acl_setuser(
            "deaf", enabled=True, passwords=["+x"], keys=["*"], categories=["+@all"], reset_channels=True
        )
    await put(redis)
    async with features(redis.url.replace("//", "//deaf:x@"), ttl_s=3_600) as found:
        assert await answer(found) == HEALTHY
        async with features(redis.url) as other:
            await other.put({("item", "0"): {"length": 88}})
        await eventually(found, (88, ()))


async def test_a_subscription_that_never_begins_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried, and however long each try takes."""
    monkeypatch.setattr(store_of_redis, "LISTEN_S", 0.03)
    monkeypatch.setattr(store_of_redis, "FIRST_DELAY_S", 0.005)
    monkeypatch.setattr(store_of_redis, "MOST_DELAY_S", 0.02)
    tries, heard = asyncio.Semaphore(0), list[bool]()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.release()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE_S):
        store = RedisFeatureStore(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", PATIENT)
        following = asyncio.create_task(store.follow(lambda keys, rows: None, heard.append))
        for _ in range(4):
            await tries.acquire()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.close()
    assert set(heard) == {False}
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
