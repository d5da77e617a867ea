"""What does it cost that only a part of a million items' state fits the memory?

    python -m benchmarks.serving.workload OUT --items 1000000 --state float16
    python -m benchmarks.serving.memory OUT

Two services of one worker each: one whose budget for items' state holds the most wanted items, the others
computed when they are asked for, and one whose budget holds the whole catalogue. Every request is another
one, of distinct items drawn by Zipf's law. After a warm-up both get the same requests in turn over one
connection. Prints p50 and p99 of both and their ratios, and, looked at between blocks of requests, what the
services say that the state takes and what the system says that their processes take. Fails where the state is
ever above its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import uvloop

from benchmarks.load import Answer, Connection, message
from benchmarks.machine import describe
from benchmarks.offline import answered
from benchmarks.running import Service, end_on_sigterm, serving
from benchmarks.serving.answers import WrongAnswer, bundle_of, counts_of
from benchmarks.serving.held import Held, held, told, within
from benchmarks.serving.zipf import Zipf
from service.bundle.golden import disagreement
from service.bundle.store import read_manifest

SEED = 6
BLOCK = 50
"""requests between two looks at the memory"""
COMPARED = 20
"""requests whose answers by both services are held against each other"""
PART, WHOLE = "a part", "the whole"


@dataclass(frozen=True, slots=True)
class Found:
    """Of each service: milliseconds by request, and what it held, at first and after every block."""

    took_ms: dict[str, list[float]] = field(default_factory=dict)
    looks: dict[str, list[Held]] = field(default_factory=dict)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="what benchmarks.serving.workload wrote")
    parser.add_argument("--part", type=int, default=512, help="MiB of the one budget [%(default)s]")
    parser.add_argument("--whole", type=int, default=4292, help="MiB of the other, 4.5 GB [%(default)s]")
    parser.add_argument("--candidates", type=int, default=500, help="a request [%(default)s]")
    parser.add_argument("--warm-up", type=int, default=2000, help="requests [%(default)s]")
    parser.add_argument("--requests", type=int, default=1000, help="measured of each [%(default)s]")
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    users, items = counts_of(options.out)
    count = options.warm_up + options.requests
    bodies = list(Zipf(items, SEED).bodies(count, options.candidates, users))
    budgets, models = {PART: options.part, WHOLE: options.whole}, options.out / "models"
    with (
        serving(models, workers=1, state_mib=options.part) as part,
        serving(models, workers=1, state_mib=options.whole) as whole,
    ):
        asked = [message("POST", "/v1/rank", body) for body in bodies]
        found = uvloop.run(measure({PART: part, WHOLE: whole}, asked, options.warm_up))
        apart = compare([part, whole], bodies[-COMPARED:], read_manifest(bundle_of(options.out)).tolerance)
    print(f"\n{items:,} items; {options.candidates} a request by Zipf's law; {options.warm_up} to warm up")
    print(f"the two services' scores are at most {apart:.1e} apart")
    report(found, budgets)
    if not all(within(looks, budgets[name]) for name, looks in found.looks.items()):
        sys.exit("the items' state was above its budget")


async def measure(services: Mapping[str, Service], asked: Sequence[bytes], warm_up: int) -> Found:
    """Ask every service everything, in turn: the first of a request is the last of the next."""
    found = Found({name: [] for name in services}, {name: [] for name in services})
    connections = {name: await Connection.open(service.port) for name, service in services.items()}

    async def look() -> None:
        for name, service in services.items():
            found.looks[name].append(await asyncio.to_thread(held, service))

    await look()
    names = list(services)
    for at, request in enumerate(asked):
        for name in names:
            started = perf_counter()
            _check(await connections[name].ask(request))
            if at >= warm_up:
                found.took_ms[name].append(1e3 * (perf_counter() - started))
        names.reverse()
        if (at + 1) % BLOCK == 0 or at + 1 == len(asked):
            await look()
    for connection in connections.values():
        connection.close()
    return found


def compare(services: Sequence[Service], bodies: Sequence[Mapping[str, object]], tolerance: float) -> float:
    """The greatest disagreement between the services. Raises WrongAnswer where it is above the tolerance."""
    apart = 0.0
    for body in bodies:
        answers = [service.ask("POST", "/v1/rank", body).raise_for_status().json() for service in services]
        ids = [item["id"] for item in answers[0]["items"]]
        ours, theirs = (answered(answer, ids).fused for answer in answers)
        apart = max(apart, disagreement(ours, theirs))
    if apart > tolerance:
        raise WrongAnswer(f"the services' scores are {apart:.1e} apart, more than {tolerance:.0e}")
    return apart


def report(found: Found, budgets: Mapping[str, float]) -> None:
    """Print every service's latencies and memory, and the ratios."""
    middle = {}
    for name, took in found.took_ms.items():
        looks, middle[name] = found.looks[name], np.percentile(took, [50, 99])
        mode, (p50, p99) = ", ".join(looks[-1].modes.values()), middle[name]
        print(f"\n{name} of the state in memory ({mode}): p50 {p50:.2f}, p99 {p99:.2f} ms")
        print(told(looks, budgets[name]))
    p50, p99 = middle[PART] / middle[WHOLE]
    print(f"\n{PART} / {WHOLE}: {p50:.2f} of its p50, {p99:.2f} of its p99")


def _check(answer: Answer) -> None:
    if answer.status != 200:
        raise RuntimeError(f"a request was answered with {answer.status}: {answer.body[:300]!r}")


if __name__ == "__main__":
    main()
