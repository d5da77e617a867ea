"""What does it cost that a tenth of all items get new features every second, and is any score stale?

    python -m benchmarks.serving.workload OUT
    python -m benchmarks.serving.updates OUT

Two workers and a Redis of their own that holds every item's row. wrk drives them over 8 connections, without
updates and with them, in turn: items drawn at random get the features of others by PUT /v1/features/item.
Prints the candidates a second of both and their ratio. Then, under the same load and the same updates, probes
change items that nobody else changes, and hold every worker's scores against those that the bundle's flat
graph gives offline to the new features. Fails where one is stale more than a second after the write, and
where updates or requests failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.load import Outcome, Pool
from benchmarks.machine import describe
from benchmarks.offline import Offline
from benchmarks.redis_faults import load_features
from benchmarks.redis_server import redis_server
from benchmarks.running import Service, end_on_sigterm, serving
from benchmarks.serving import wrk
from benchmarks.serving.answers import bundle_of
from benchmarks.serving.freshness import CONNECTIONS as PROBING
from benchmarks.serving.freshness import ITEMS, Change, Seen, probe, told
from benchmarks.serving.servers import WORKERS

TOKEN = "updates"
SEED = 7
CONNECTIONS = 8
WARM_UP_S = 4.0
PUTS = 300
"""different ones, sent in turn"""
PIECE_S = 3.0
"""of load, while there are probes"""


@dataclass(frozen=True, slots=True)
class Round:
    """Candidates a second without and with updates.

    Attributes:
        rows: written a second meanwhile.
        put_ms: of every PUT, from when it was due to its answer.
    """

    quiet: float
    updated: float
    rows: float
    put_ms: Sequence[float]


def main() -> None:
    """Run it."""
    options = _options()
    end_on_sigterm()
    wrk.install()
    print(describe())
    bundle, models = bundle_of(options.out), options.out / "models"
    offline = Offline(bundle)
    with redis_server() as redis, serving(models, workers=WORKERS, redis=redis.url, token=TOKEN) as service:
        load_features(redis, models, bundle.name)
        uvloop.run(Measure(service, offline, options).all())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="what benchmarks.serving.workload wrote")
    parser.add_argument("--share", type=float, default=0.1, help="of all items, a second [%(default)s]")
    parser.add_argument("--rows", type=int, default=200, help="in a PUT [%(default)s]")
    parser.add_argument("--candidates", type=int, default=500, help="a request [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=10.0, help="each load [%(default)g]")
    parser.add_argument("--probes", type=int, default=20, help="[%(default)s]")
    return parser.parse_args()


class Measure:
    """A service under load, with updates and without."""

    def __init__(self, service: Service, offline: Offline, options: argparse.Namespace) -> None:
        self._service, self._offline, self._options = service, offline, options
        self._random = np.random.default_rng(SEED)
        self._count = len(offline.encoder.tables["item"])
        # Nobody else changes the items of a probe, and no probe those of another.
        probed = ITEMS * options.probes
        self._probed, self._others = np.split(self._random.permutation(self._count), [probed])
        puts = (Change(*self._drawn(self._others, options.rows)) for _ in range(PUTS))
        self._failed = Counter[str]()
        self._puts = cycle([change.put(offline, TOKEN) for change in puts])

    async def all(self) -> None:
        """Everything, printed."""
        share, options = self._options.share, self._options
        load = f"{CONNECTIONS} connections, {options.candidates} candidates a request"
        print(
            f"\n{self._service.workers} workers, {load}; "
            f"{100 * share:g} % of {self._count:,} items get new features a second, {options.rows} in a PUT"
        )
        rounds = [await self._round(number) for number in range(options.rounds)]
        ratio = median(each.updated / each.quiet for each in rounds)
        p50, p99 = np.percentile([ms for each in rounds for ms in each.put_ms], [50, 99])
        print(f"a PUT took p50 {p50:.1f}, p99 {p99:.1f} ms")
        print(f"{degraded(self._service):.0f} requests were answered without all features")
        print(f"with updates / without: {ratio:.3f} of the candidates/s (median of the rounds)")
        seen = await self._probe()
        print(f"\nunder the same load and updates: {told(seen, options.probes)}")
        if any(each.stale for each in seen):
            sys.exit("scores were stale")
        if self._failed.total():
            sys.exit(f"failed: {dict(self._failed)}")

    async def _round(self, number: int) -> Round:
        """Without and with updates, the first of a round the last of the next."""
        await self._load(WARM_UP_S)
        if number % 2:
            updated, rows, put_ms = await self._updated_load()
            quiet = await self._load(self._options.seconds)
        else:
            quiet = await self._load(self._options.seconds)
            updated, rows, put_ms = await self._updated_load()
        print(
            f"round {number + 1}: {quiet:9,.0f} candidates/s without, {updated:9,.0f} with {rows:,.0f} rows/s"
            f" written: {updated / quiet:.3f}",
            flush=True,
        )
        return Round(quiet, updated, rows, put_ms)

    async def _load(self, seconds: float) -> float:
        """Candidates a second."""
        script = self._options.out / "wrk" / f"rank-{self._options.candidates}.lua"
        load = await asyncio.to_thread(
            wrk.drive, script, self._service.port, connections=CONNECTIONS, seconds=seconds
        )
        self._failed["requests"] += load.failed
        per_s: float = (load.requests - load.failed) * self._options.candidates / load.seconds
        return per_s

    async def _updated_load(self) -> tuple[float, float, list[float]]:
        """Candidates a second; rows written a second meanwhile, and milliseconds of every PUT."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        began, updates = loop.time(), asyncio.create_task(self._update(over))
        try:
            per_s = await self._load(self._options.seconds)
            ended = loop.time()
        finally:
            over.set()
            outcomes = await updates
        written = self._options.rows * sum(outcome.ended <= ended for outcome in outcomes)
        return per_s, written / (ended - began), [1e3 * outcome.latency_s for outcome in outcomes]

    async def _update(self, over: asyncio.Event) -> list[Outcome]:
        """Write rows at a steady rate, answered or not, until it is over; the PUTs that did."""
        loop, every_s = asyncio.get_running_loop(), self._options.rows / (self._options.share * self._count)
        start, sent = loop.time(), list[asyncio.Task[Outcome]]()
        async with Pool(self._service.port) as pool, asyncio.TaskGroup() as group:
            while not over.is_set():
                due = start + len(sent) * every_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                sent.append(group.create_task(pool.send(len(sent), next(self._puts), due)))
        outcomes = [task.result() for task in sent]
        self._failed += Counter(f"PUT: {outcome.kind}" for outcome in outcomes if outcome.kind != "ok")
        return [outcome for outcome in outcomes if outcome.kind == "ok"]

    async def _probe(self) -> list[Seen]:
        """Probe after probe, under load and updates."""
        over, seen = asyncio.Event(), list[Seen]()
        background = asyncio.create_task(self._loaded(over))
        users = self._offline.encoder.tables["user"].keys[0]
        try:
            async with Pool(self._service.port, greets=True) as pool:
                await pool.open(PROBING)
                for items in np.split(self._probed, self._options.probes):
                    change = Change(*self._drawn(items, ITEMS))
                    put, user = change.put(self._offline, TOKEN), str(self._random.choice(users))
                    seen += await probe(pool, self._offline, change, user, put, self._service.workers)
        finally:
            over.set()
            await background
        return seen

    async def _loaded(self, over: asyncio.Event) -> None:
        """Load and updates until it is over."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._update(over))
            while not over.is_set():
                await self._load(PIECE_S)

    def _drawn(self, items: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """So many of the items, and any whose features they get."""
        like = self._random.integers(0, self._count, count)
        return self._random.choice(items, count, replace=False), like


def degraded(service: Service) -> float:
    """How many requests did without the store so far."""
    lines = service.ask("GET", "/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith("rankserve_degraded_total")
    )


if __name__ == "__main__":
    main()
