"""What do callers notice when the Redis of the features is killed, comes back, freezes and comes back?

    python -m benchmarks.redis_faults --models models --version 20240511-1

Under an open-loop load at random times, for two minutes in five parts: Redis is there; is killed; is
back, and the features are loaded anew; is frozen (SIGSTOP) for some seconds; goes on. Prints for each part
the outcomes, how many answers were marked degraded, and latencies; then the errors in all, when the first and
the last marked answer of each fault came. Fails on an error, and where p99 of a part reaches the deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.load import Outcome, Pool, loaded_service, message, poisson, report
from benchmarks.machine import describe
from benchmarks.offline import Offline
from benchmarks.redis_server import RedisServer, redis_server
from benchmarks.running import ROOT, Service, deployed, end_on_sigterm, serving

REQUESTS = 40
CONNECTIONS = 16
PARTS = 5


@dataclass
class Events:
    """What befell Redis, and when, on the event loop's clock."""

    seen: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str) -> None:
        """It happened now."""
        self.seen.append((asyncio.get_running_loop().time(), what))

    def part(self, at: float) -> int:
        """The last event before a time, by its number."""
        return sum(began <= at for began, _ in self.seen) - 1


def main() -> None:
    """Run it."""
    parser = loaded_service(__doc__)
    parser.add_argument("--version", required=True, help="the bundle")
    parser.add_argument("--seconds", type=float, default=120, help="in all [%(default)s]")
    parser.add_argument("--frozen", type=float, default=5, help="seconds that Redis is frozen [%(default)s]")
    parser.add_argument("--deadline-ms", type=float, default=1000, help="of every request [%(default)s]")
    parser.add_argument("--ttl", type=float, default=10, help="seconds that a row is near [%(default)s]")
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    requests = Offline(options.models / options.version).requests(REQUESTS, options.candidates)
    sent = [
        message("POST", "/v1/rank", request.body(deadline_ms=options.deadline_ms)) for request in requests
    ]
    with (
        redis_server() as redis,
        deployed(options.models, [options.version]) as models,
        serving(models, workers=options.workers, redis=redis.url, features_ttl_s=options.ttl) as service,
    ):
        load_features(redis, models, options.version)
        print(
            f"\n{options.workers} workers; {options.rate:g} requests/s of {options.candidates} candidates, "
            f"deadline {options.deadline_ms:g} ms; rows are near for {options.ttl:g} s"
        )
        if not uvloop.run(measure(service, redis, sent, options)):
            sys.exit("there were errors, or p99 reached the deadline")


def load_features(redis: RedisServer, models: Path, version: str) -> None:
    """As an operator would."""
    command = [sys.executable, "-m", "service.cli", "features", "load", version]
    subprocess.run(
        [*command, "--redis", redis.url, "--models", str(models)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


async def measure(
    service: Service, redis: RedisServer, sent: Sequence[bytes], options: argparse.Namespace
) -> bool:
    """Let the faults happen under load, and print what came of each; was it as it should be throughout?"""
    events = Events()
    async with Pool(service.port) as pool:
        await pool.open(CONNECTIONS)
        await poisson(pool, sent, options.rate, 2.0, seed=1)  # the process's first requests
        load = asyncio.create_task(poisson(pool, sent, options.rate, options.seconds))
        await befall(events, redis, service.models, options)
        outcomes = await load
    parts: list[list[Outcome]] = [[] for _ in events.seen]
    for outcome in outcomes:
        parts[events.part(outcome.planned)].append(outcome)
    for (began, what), part in zip(events.seen, parts, strict=True):
        print(f"\n{what}: {report(part)}")
        marked = [outcome.planned - began for outcome in part if degraded(outcome)]
        when = f", from {min(marked):.2f} to {max(marked):.2f} s after its beginning" if marked else ""
        print(f"marked degraded {len(marked)}{when}")
    errors = sum(outcome.kind != "ok" for outcome in outcomes)
    p99 = [float(np.percentile([1e3 * outcome.latency_s for outcome in part], 99)) for part in parts if part]
    print(
        f"\nin all {len(outcomes)} requests, {errors} errors; greatest p99 of a part {max(p99):.1f} ms "
        f"of {options.deadline_ms:g}"
    )
    return errors == 0 and max(p99) < options.deadline_ms


async def befall(events: Events, redis: RedisServer, models: Path, options: argparse.Namespace) -> None:
    """All that happens to Redis, a part of the time after each; it is frozen for as long as asked for."""
    pause_s = (options.seconds - options.frozen) / (PARTS - 1)
    events.note("Redis is there")
    await asyncio.sleep(pause_s)
    events.note("killed")
    redis.kill()
    await asyncio.sleep(pause_s)
    events.note("back, and loaded anew")
    await asyncio.to_thread(redis.start)
    await asyncio.to_thread(load_features, redis, models, options.version)
    await asyncio.sleep(pause_s)
    events.note("frozen")
    with redis.frozen():
        await asyncio.sleep(options.frozen)
    events.note("thawed")


def degraded(outcome: Outcome) -> bool:
    """Was the answer marked?"""
    return outcome.kind == "ok" and bool(outcome.json()["degraded"])


if __name__ == "__main__":
    main()
