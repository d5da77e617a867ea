"""What can befall a real Redis, and what a request gets meanwhile: an answer, marked, and soon."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from benchmarks.redis_server import RedisServer
from service.bundle.columns import Value
from service.errors import StoreFailed
from service.features.breaker import Breaker
from service.features.features import FeatureOptions, Features
from service.features.redis import WRITE_CONNECTIONS, RedisFeatureStore, RedisOptions
from service.features.store import Row, RowKey
from service.telemetry import Telemetry
from tests.service.features.merged import told_lengths
from tests.service.features.proxy import proxy
from tests.service.features.stores import PATIENT
from tests.service.features.test_lookup import ENCODER, asked

HASTY = RedisOptions(timeout_s=0.05, connect_timeout_s=0.05)
LENGTH: Mapping[RowKey, Mapping[str, Value]] = {("item", "0"): {"length": 77}}
DEADLINE_S = 20.0


@asynccontextmanager
async def features(
    url: str, options: RedisOptions = PATIENT, *, timeout_s: float = 10.0, ttl_s: float = 1e-9
) -> AsyncIterator[Features]:
    """Features in a Redis; nothing stays near unless `ttl_s` says so."""
    store = RedisFeatureStore(url, options, Breaker(failures=3, retry_s=0.05))
    found = Features(store, FeatureOptions(timeout_s=timeout_s, ttl_s=ttl_s), Telemetry())
    await found.open()
    try:
        yield found
    finally:
        await found.close()


async def answer(found: Features) -> tuple[object, tuple[str, ...]]:
    """The length that a request gets of the store, and the stores that it did without."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    async with asyncio.timeout(DEADLINE_S):
        known, degraded = await found.complete(ENCODER, asked(["0", "1"]), deadline)
    return told_lengths(known).get(0), degraded


async def eventually(found: Features, wanted: tuple[object, tuple[str, ...]]) -> None:
    """Ask until the answer is the wanted one."""
    async with asyncio.timeout(DEADLINE_S):
        while await answer(found) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def state(found: Features) -> str:
    """Of the store, now."""
    return found.store.state


HEALTHY, DEGRADED = (77, ()), (None, ("redis",))


async def put(server: RedisServer) -> None:
    """Write the row, as another instance would."""
    async with features(server.url) as other:
        await other.put(LENGTH)


async def test_one_round_trip(redis: RedisServer) -> None:
    """For everything that a request lacks, counted by Redis itself; and none where all of it is near."""
    async with features(redis.url, ttl_s=60) as found, Redis.from_url(redis.url) as client:
        await found.put(LENGTH)
        stats: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE_S):
            while (
                stats.get("cmdstat_mget", {}).get("calls") != 1
            ):  # once more where it just began to hear of changes, and forgot all
                found.forget()
                await client.config_resetstat()
                for _ in range(3):
                    assert await answer(found) == HEALTHY
                stats = await client.info("commandstats")
    assert not stats.keys() & {"cmdstat_get", "cmdstat_hello", "cmdstat_client|setinfo"}


async def test_absent_from_the_start(redis: RedisServer) -> None:
    """Answers come, marked; once there is one it is used, and nobody has to do anything."""
    redis.kill()
    async with features(redis.url, HASTY) as found:
        for _ in range(5):
            assert await answer(found) == DEGRADED
        assert state(found) == "failing"
        redis.start()
        await put(redis)
        await eventually(found, HEALTHY)
        assert state(found) == "ok"


async def test_killed_and_back(redis: RedisServer) -> None:
    """The rows are gone with it, and the answers go on; what is loaded anew is found."""
    async with features(redis.url) as found:
        await found.put(LENGTH)
        assert await answer(found) == HEALTHY
        redis.kill()
        for _ in range(5):
            assert await answer(found) == DEGRADED
        redis.start()
        await eventually(found, (None, ()))
        await put(redis)
        await eventually(found, HEALTHY)


async def test_frozen_and_back(redis: RedisServer) -> None:
    """It takes connections and says nothing: no request waits longer than it is given for the store."""
    async with features(redis.url, HASTY) as found:
        await found.put(LENGTH)
        await eventually(found, HEALTHY)
        with redis.frozen():
            for _ in range(5):
                assert await answer(found) == DEGRADED
            assert state(found) == "failing"
        await eventually(found, HEALTHY)


async def test_slow(redis: RedisServer) -> None:
    """Slower than a request can wait is as good as frozen."""
    async with proxy(redis.port) as slow, features(slow.url, HASTY) as found:
        await put(redis)
        await eventually(found, HEALTHY)
        slow.open.clear()
        for _ in range(5):
            assert await answer(found) == DEGRADED
        slow.open.set()
        await eventually(found, HEALTHY)


async def test_late_is_not_lost(redis: RedisServer) -> None:
    """What comes after a request has gone on without it is near for the next."""
    async with proxy(redis.port) as slow, features(slow.url, timeout_s=0.01, ttl_s=60) as found:
        await put(redis)
        slow.open.clear()
        assert await answer(found) == DEGRADED
        slow.open.set()
        await eventually(found, HEALTHY)


async def test_full_of_corrupt_values(redis: RedisServer) -> None:
    """They count as missing and mark the answer; sound rows beside them hold; a write mends them."""
    async with features(redis.url, ttl_s=60) as found, Redis.from_url(redis.url) as client:
        await found.put(LENGTH)
        await client.set("rankserve:item:1", b"\x80\x04garbage")
        assert await answer(found) == (77, ("redis",))
        await found.put({("item", "1"): {"length": 1}})
        assert await answer(found) == HEALTHY
        await client.delete("rankserve:item:1")
        await client.hset("rankserve:item:1", "length", "5")  # another type: to MGET there is none
        await found.put({("item", "1"): {"length": 2}})
        assert await answer(found) == HEALTHY
        assert state(found) == "ok"


async def test_a_cancelled_call_leaks_no_reply(redis: RedisServer) -> None:
    """Whenever calls are cancelled, everyone else gets the rows of their own keys."""
    store = RedisFeatureStore(redis.url, PATIENT)
    await store.put({("item", str(n)): Row(1, {"n": n}) for n in range(50)})
    await store.close()
    chance = random.Random(7)
    async with proxy(redis.port) as slow:
        slow.delay_s = 0.002
        store = RedisFeatureStore(slow.url, PATIENT)

        async def ask(n: int) -> bool:
            key = ("item", str(n))
            row = (await store.fetch([key]))[key]
            return row is not None and row.fields == {"n": n}

        for _ in range(40):
            calls = [asyncio.create_task(ask(chance.randrange(50))) for _ in range(8)]
            await asyncio.sleep(chance.random() * 0.006)
            for call in chance.sample(calls, 5):
                call.cancel()
            went = await asyncio.gather(*calls, return_exceptions=True)
            assert all(each is True for each in went if not isinstance(each, asyncio.CancelledError)), went
        await store.close()


async def test_more_calls_than_connections_fail_at_once(redis: RedisServer) -> None:
    """They wait for nobody, and say nothing of Redis: the breaker stays closed."""
    async with proxy(redis.port) as slow:
        store = RedisFeatureStore(slow.url, replace(PATIENT, connections=2), Breaker(failures=1))
        slow.open.clear()
        waiting = [asyncio.create_task(store.fetch([("item", "0")])) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(StoreFailed) as refused:
            await store.fetch([("item", "0")])
        assert (refused.value.kind, store.state) == ("busy", "unknown")
        slow.open.set()
        assert await asyncio.gather(*waiting) == [{}, {}]
        await store.close()


async def test_a_write_that_fails_says_so(redis: RedisServer) -> None:
    """An operator must know; the reason names no address and no password."""
    redis.kill()
    store = RedisFeatureStore(redis.url.replace("//", "//:hush@"), HASTY)
    with pytest.raises(StoreFailed, match="cannot be reached") as failed:
        await store.put({("item", "0"): Row(1, {})})
    assert "hush" not in str(failed.value)
    await store.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"*1\r\n$-1\r\n",
        b"*2\r\n:5\r\n$-1\r\n",
        b"*2\r\n*0\r\n$-1\r\n",
        b"$x\r\n",
        b"HTTP/1.1 400\r\n",
    ],
)
async def test_what_is_no_redis(reply: bytes) -> None:
    """Whatever it answers to a read of two rows is a failure of the store, and counts."""

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65_536):
                writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer_all, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        store = RedisFeatureStore(f"redis://127.0.0.1:{port}/0", PATIENT, Breaker(failures=3))
        for _ in range(3):
            with pytest.raises(StoreFailed):
                await store.fetch([("item", "0"), ("item", "1")])
        assert store.state == "failing"
        await store.close()


async def test_a_busy_pool_of_writes_says_so(redis: RedisServer) -> None:
    """Redis can be reached, and to try again helps; the notices of changes have a connection of their own."""
    async with proxy(redis.port) as slow:
        store = RedisFeatureStore(slow.url, PATIENT)
        slow.open.clear()
        writes = [store.put({("item", str(n)): Row(1, {})}) for n in range(WRITE_CONNECTIONS + 1)]
        waiting = [asyncio.create_task(write) for write in writes]
        (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        failure = refused.exception()
        assert isinstance(failure, StoreFailed)
        assert failure.kind == "busy"
        slow.open.set()
        assert (
            sum(await asyncio.gather(*(each for each in waiting if each is not refused))) == len(writes) - 1
        )
        await store.close()
