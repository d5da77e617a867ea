"""What do features in Redis cost a request, where they are near and where they are not?

    python -m benchmarks.features --models models --version 20240511-1

Ranks the same requests in one process without HTTP, in turn: with an empty memory store, as a service
without Redis has; with a memory store that holds every row of the version; and with a Redis of its own, on
this machine, that holds them too. Prints the times of each and of its step `fetch` alone, and the difference
of the medians; then the same with every item's row changed, so that all candidates are encoded anew; and how
many commands Redis got for requests whose rows are not near.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import uvloop
from redis.asyncio import Redis

from benchmarks.machine import describe
from benchmarks.offline import Offline
from benchmarks.redis_server import RedisServer, redis_server
from benchmarks.running import deployed
from service.api import Serving
from service.app import create_app
from service.bundle.columns import Value
from service.features.store import RowKey
from service.settings import Settings
from service.wire import RankRequest

WARM_UP = 50
DEADLINE_S = 30.0
BATCH = 500
Rows = Mapping[RowKey, Mapping[str, Value]]
Times = dict[str, list[dict[str, float]]]


def main() -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--version", required=True, help="the bundle")
    parser.add_argument("--candidates", type=int, default=200, help="a request [%(default)s]")
    parser.add_argument("--requests", type=int, default=500, help="of each kind [%(default)s]")
    options = parser.parse_args()
    print(describe())
    with deployed(options.models, [options.version]) as models, redis_server() as redis:
        uvloop.run(measure(models, redis, options))


async def measure(models: Path, redis: RedisServer, options: argparse.Namespace) -> None:
    """Print what each kind of store costs."""
    offline = Offline(models / options.version)
    rows = dict(stored(offline))
    requests = [
        RankRequest.model_validate(request.body())
        for request in offline.requests(options.requests, options.candidates)
    ]
    async with AsyncExitStack() as stack:
        services = {
            "memory, empty": await stack.enter_async_context(running(models)),
            "memory": await stack.enter_async_context(running(models)),
            "redis": await stack.enter_async_context(running(models, redis=redis.url)),
        }
        holding = [services["memory"], services["redis"]]
        await load(holding, rows)
        await print_cold(services["redis"], redis, requests)
        asked = f"{len(requests)} requests of {options.candidates} candidates"
        print(f"\n{asked}, all rows near, and as in the bundle")
        print_times(await ranked(services, requests))
        await load(holding, {key: changed(fields) for key, fields in rows.items() if key[0] == "item"})
        print("\nthe same, a number of every item changed in the store")
        print_times(await ranked(services, requests))


@asynccontextmanager
async def running(models: Path, **settings: str) -> AsyncIterator[Serving]:
    """A worker's insides, ready."""
    app = create_app(
        Settings(models=models, provider="cpu", features_ttl_s=3_600, features_timeout_ms=5_000, **settings)  # type: ignore[arg-type]
    )
    async with app.router.lifespan_context(app):
        yield app.state.serving


def stored(offline: Offline) -> Iterator[tuple[RowKey, Mapping[str, Value]]]:
    """Every row of the version's tables."""
    for name, table in offline.encoder.tables.items():
        for key, fields in table.each():
            yield (name, *key), fields


def changed(fields: Mapping[str, Value]) -> Mapping[str, Value]:
    """A row with its first number another, as a counter would be."""
    name = next((name for name, value in fields.items() if isinstance(value, float)), None)
    return fields if name is None else {**fields, name: float(fields[name] or 0) + 1}  # type: ignore[arg-type]


async def load(services: Sequence[Serving], rows: Rows) -> None:
    """Put rows into every store."""
    keys = list(rows)
    for service in services:
        for at in range(0, len(keys), BATCH):
            await service.features.put({key: rows[key] for key in keys[at : at + BATCH]})


async def print_cold(service: Serving, redis: RedisServer, requests: Sequence[RankRequest]) -> None:
    """Rank each request once, and print how many commands Redis got for the rows of each."""
    commands, times = [], []
    async with Redis.from_url(redis.url) as client:
        for request in requests[:WARM_UP]:
            service.features.forget()
            before = await reads(client)
            times.append((await rank(service, request))["fetch"])
            commands.append(await reads(client) - before)
    each = f"{min(commands)} to {max(commands)} reads of Redis each"
    print(f"\n{len(commands)} requests with nothing near: {each}")
    print(f"fetch {percentiles(times)}")


async def reads(client: Redis) -> int:
    """How many commands of reading Redis got so far."""
    stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("get", "mget", "hgetall"))


async def ranked(services: Mapping[str, Serving], requests: Sequence[RankRequest]) -> Times:
    """Milliseconds by stage of every request, by store; each request with all stores in turn."""
    for request in requests:  # all rows are near then
        for service in services.values():
            await rank(service, request)
    found: Times = {name: [] for name in services}
    names = deque(services)
    for request in requests:
        for name in names:
            found[name].append(await rank(services[name], request))
        names.rotate()
    return found


async def rank(service: Serving, request: RankRequest) -> dict[str, float]:
    """The milliseconds of a request, by stage, and of all of it."""
    started = time.perf_counter()
    slate = await service.ranker.rank(request, asyncio.get_running_loop().time() + DEADLINE_S)
    assert not slate.degraded
    return {"fetch": slate.timings_ms["fetch"], "rank": (time.perf_counter() - started) * 1e3}


def print_times(times: Times) -> None:
    """Percentiles by store, and the medians' distance from those of the store without rows."""
    base = np.median([each["rank"] for each in times["memory, empty"]])
    for name, each in times.items():
        whole, fetch = ([one[stage] for one in each] for stage in ("rank", "fetch"))
        print(
            f"{name:14} rank {percentiles(whole)}, {np.median(whole) - base:+.2f}; fetch {percentiles(fetch)}"
        )


def percentiles(milliseconds: Sequence[float]) -> str:
    """Median and 99th percentile."""
    return "p50 {:.2f}, p99 {:.2f} ms".format(*np.percentile(milliseconds, [50, 99]))


if __name__ == "__main__":
    main()
