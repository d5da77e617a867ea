"""What is said of stored rows that cannot be read: which, why, and how often."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from benchmarks.redis_server import RedisServer
from service.features.faults import LONGEST, MOST, PERIOD_S, Faults
from service.features.lookup import Lookup
from service.features.near import NearCache
from service.features.redis import RedisFeatureStore
from service.features.store import Row
from service.telemetry import Telemetry
from tests.service.features.stores import PATIENT, HeldStore
from tests.service.features.test_breaker import Clock
from tests.service.features.test_lookup import ENCODER, asked
from tests.service.test_telemetry import figures


def test_there_are_only_so_many_lines(caplog: pytest.LogCaptureFixture) -> None:
    """In a period; the last one says that others are left out, and no line is long."""
    clock = Clock()
    faults = Faults("redis", clock)
    for at in range(3 * MOST):
        faults.tell(("user_tag", "x" * 5_000, str(at)), "y" * 5_000)
    assert len(caplog.messages) == MOST
    assert ["are counted, and not told" in line for line in caplog.messages] == [*[False] * (MOST - 1), True]
    assert max(map(len, caplog.messages)) < 2 * LONGEST + 200
    clock.now += PERIOD_S
    faults.tell(("item", "7"), "no row")
    assert caplog.messages[-1].startswith("redis: the row of item with the key '7' cannot be read: no row")


async def test_a_value_that_a_version_cannot_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """For each row that is near, with the field and the reason; it is counted, and answers stay marked."""
    telemetry = Telemetry()
    store = HeldStore({("item", "0"): {"length": "cheap", "author": ["a"]}})
    near = NearCache(store, entries=9, ttl_s=60, telemetry=telemetry, clock=(clock := Clock()))
    near.hears(True)
    finds = Lookup(near, telemetry)
    for _ in range(3):
        assert not (await finds.complete(ENCODER, asked(["0", "1"]), 10))[1]
    assert figures(telemetry)['rankserve_store_failures_total{kind="unreadable",store="held"}'] == 1
    (line,) = caplog.messages
    for words in ("item", "'0'", "length: expected a number, got 'cheap'", "author: expected a single value"):
        assert words in line
    clock.now += 61
    store.rows["item", "0"] = Row(2, {"length": 5})
    assert (await finds.complete(ENCODER, asked(["0", "1"]), 10))[1]
    assert len(caplog.messages) == 1


async def test_a_corrupt_value_in_redis_is_told(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """By its key and why it is no row."""
    store = RedisFeatureStore(redis.url, PATIENT)
    async with asyncio.timeout(30), Redis.from_url(redis.url) as client:
        await client.set("rankserve:item:1", b"\x80\x04garbage, of which there is enough")
        assert await store.fetch([("item", "1"), ("item", "2")]) == {("item", "1"): None}
        await store.close()
    (line,) = caplog.messages
    assert "the row of item with the key '1' cannot be read: begins with b'\\x80\\x04ga'" in line
