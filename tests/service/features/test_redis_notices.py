"""How a worker hears of changes in a real Redis, and what it does while it cannot."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks.redis_server import RedisServer
from service.features import features as features_module
from service.features import notices
from service.features import redis as store_of_redis
from service.features.features import Features
from service.features.redis import RedisFeatureStore
from service.features.store import Row
from tests.service.api.test_features import TOKEN, durations, rows
from tests.service.api.test_features import put as put_rows
from tests.service.features.merged import told_lengths
from tests.service.features.stores import PATIENT
from tests.service.features.test_lookup import ENCODER, asked
from tests.service.features.test_redis_faults import (
    DEADLINE_S,
    HEALTHY,
    LENGTH,
    answer,
    eventually,
    features,
    put,
)
from tests.service.toy import toy


async def lengths(found: Features) -> dict[int, object]:
    """What a request is told of two items."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    known, _ = await found.complete(ENCODER, asked(["0", "1"]), deadline)
    return dict(told_lengths(known))


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
        _, whole = notices.pack({("item", "0"): Row(2**50, {"length": 88})}, 0)
        async with asyncio.timeout(DEADLINE_S):
            while await answer(found) != (88, ()):  # the row is near by then, but maybe not heard of
                await client.publish("rankserve:changes:0", whole)
                await asyncio.sleep(0.01)


async def test_a_notice_is_of_one_database(redis: RedisServer) -> None:
    """Two services share a Redis and a prefix, and neither takes the other's row for its own."""
    other = f"{redis.url.removesuffix('/0')}/1"
    async with features(redis.url, ttl_s=3_600) as found, features(other, ttl_s=3_600) as elsewhere:
        await found.put(LENGTH)
        await eventually(found, HEALTHY)
        await elsewhere.put({("item", "0"): {"length": 6}})
        await eventually(elsewhere, (6, ()))
        await found.put({("item", "1"): {"length": 7}})  # what came before has been heard by then
        async with asyncio.timeout(DEADLINE_S):
            while (await lengths(found))[1] != 7:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await answer(found) == HEALTHY


async def test_a_notice_that_cannot_be_read_is_taken_for_all(redis: RedisServer) -> None:
    """Better to ask again than to be wrong."""
    async with features(redis.url, ttl_s=3_600) as found, Redis.from_url(redis.url) as client:
        await found.put(LENGTH)
        await eventually(found, HEALTHY)
        await client.delete("rankserve:item:0")
        async with asyncio.timeout(DEADLINE_S):
            while await client.publish("rankserve:changes:0", b"\xc1") == 0:  # noqa: ASYNC110
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


async def test_one_of_several_workers_ranks_on_while_it_looks_rows_up(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller cannot tell whom the next request comes to; that of a lone worker finds the row at once."""
    monkeypatch.setattr(features_module, "SERVES_ON_S", 60.0)
    monkeypatch.setattr(features_module, "GATHERED_S", 60.0)
    for workers, then in ((1, 55), (2, 10)):
        folder = tmp_path / str(workers)
        settings: dict[str, Any] = {"workers": workers, "redis": redis.url, "redis_prefix": f"{workers}:"}
        async with toy(folder, token=TOKEN, allow_request_fusion=True, **settings) as service:
            assert await durations(service, "1") == {"1": 10}
            assert (await put_rows(service, rows(duration=55))).json()["written"] == 1
            assert await durations(service, "1") == {"1": then}
