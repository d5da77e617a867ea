"""What does a swap cost: in errors, in wrong scores, in latency, in memory?

    python -m benchmarks.swaps --models models --versions 20240511-1 20240511-2

First an open-loop load at random times (latency counts from when a request was due), without swaps and then
with swaps to and fro between the two versions, by PUT. Every answer is compared with the scores of the
version that it names, as its flat graph gives them offline, and with the other version's. Then more swaps
under a light load, with the workers' memory after each: resident (RSS), and what is theirs alone (USS).
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import psutil
import uvloop

from benchmarks.load import Outcome, Pool, loaded_service, message, poisson, report
from benchmarks.machine import describe
from benchmarks.offline import Offline, Request, Scores, answered
from benchmarks.running import Service, deployed, end_on_sigterm, serving
from service.bundle.golden import disagreement
from service.bundle.manifest import TOLERANCE

TOKEN = "swaps"
REQUESTS = 40
"""different ones, sent in turn"""
CONNECTIONS = 16
LEVEL_AT = 3
"""the swap after which memory is at its level"""


def main() -> None:
    """Run it."""
    parser = loaded_service(__doc__)
    parser.add_argument("--versions", nargs=2, required=True, help="two bundles of the same tables")
    parser.add_argument("--seconds", type=float, default=60, help="of each load [%(default)s]")
    parser.add_argument("--swaps", type=int, default=20, help="under that load [%(default)s]")
    parser.add_argument("--memory-swaps", type=int, default=30, help="with memory told [%(default)s]")
    parser.add_argument("--memory-rate", type=float, default=5, help="requests a second then [%(default)s]")
    parser.add_argument(
        "--settle", type=float, default=1, help="seconds from a swap to its memory [%(default)s]"
    )
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    versions = {name: Offline(options.models / name) for name in options.versions}
    requests = next(iter(versions.values())).requests(REQUESTS, options.candidates)
    truth = Truth(
        requests,
        {name: [offline.scores(request) for request in requests] for name, offline in versions.items()},
    )
    with (
        deployed(options.models, options.versions) as models,
        serving(models, workers=options.workers, token=TOKEN) as service,
    ):
        uvloop.run(Measure(service, truth, options).all())


@dataclass(frozen=True, slots=True)
class Truth:
    """The requests, and by version what each of them gets."""

    requests: Sequence[Request]
    scores: dict[str, list[Scores]]

    def compare(self, outcomes: Sequence[Outcome]) -> str:
        """Which versions answered, how far from their own scores, how near to those of the other."""
        seen: Counter[str] = Counter()
        own, other = 0.0, float("inf")
        wrong = 0
        for outcome in outcomes:
            if outcome.kind != "ok":
                continue
            answer = outcome.json()
            found = answered(answer, self.requests[outcome.request].item_ids).fused
            seen[answer["version"]] += 1
            for version, scores in self.scores.items():
                apart = disagreement(found, scores[outcome.request].fused)
                if version == answer["version"]:
                    own, wrong = max(own, apart), wrong + (apart > TOLERANCE)
                else:
                    other = min(other, apart)
        by_version = ", ".join(f"{version} {count}" for version, count in seen.items())
        return (
            f"answers by version: {by_version}; with scores that are not that version's: {wrong}\n"
            f"disagreement: at most {own:.1e} with the version named, at least {other:.1e} with the other"
        )


@dataclass(frozen=True)
class Measure:
    """One service under measurement."""

    service: Service
    truth: Truth
    options: argparse.Namespace
    took_s: list[float] = field(default_factory=list)
    """of every swap"""

    async def all(self) -> None:
        """Everything, printed."""
        sent = [message("POST", "/v1/rank", request.body()) for request in self.truth.requests]
        others = cycle([*list(self.truth.scores)[1:], next(iter(self.truth.scores))])
        async with Pool(self.service.port) as pool:
            connections = await pool.open(CONNECTIONS)
            await poisson(pool, sent, self.options.rate, min(3.0, self.options.seconds))  # warm up
            load = f"{self.options.rate:g} requests/s of {self.options.candidates} candidates"
            print(f"\n{self.service.workers} workers with {sorted(connections.values())} connections; {load}")
            for swaps in (0, self.options.swaps):
                outcomes = await self.loaded(pool, sent, others, swaps)
                print(f"\n{self.options.seconds:g} s with {swaps} swaps: {report(outcomes)}")
                print(self.truth.compare(outcomes))
            print(f"swaps took {_range(self.took_s)} s")
            await self.memory(pool, sent, others)

    async def loaded(
        self, pool: Pool, sent: Sequence[bytes], others: cycle[str], swaps: int
    ) -> list[Outcome]:
        """Outcomes of the load, with so many swaps in the midst of it."""
        load = asyncio.create_task(poisson(pool, sent, self.options.rate, self.options.seconds, seed=1))
        loop = asyncio.get_running_loop()
        start = loop.time()
        for at in range(swaps):
            due = start + (at + 0.5) * self.options.seconds / swaps
            await asyncio.sleep(max(0.0, due - loop.time()))
            if load.done():
                print(f"only {at} swaps began within the load: they take too long for so many")
                break
            await self.swap(next(others))
        return await load

    async def swap(self, version: str) -> None:
        """Promote by PUT. RuntimeError where that is refused, or not every worker has followed."""
        started = asyncio.get_running_loop().time()
        answer = await asyncio.to_thread(
            self.service.ask, "PUT", "/v1/rankers/default", {"version": version}, TOKEN
        )
        if answer.status_code != 200 or len(answer.json()["workers"]) != self.service.workers:
            raise RuntimeError(f"{version} was not promoted: {answer.text}")
        self.took_s.append(asyncio.get_running_loop().time() - started)

    async def memory(self, pool: Pool, sent: Sequence[bytes], others: cycle[str]) -> None:
        """Swap under a light load, and print what memory the workers take after each."""
        if self.options.memory_swaps < LEVEL_AT:
            return
        light = asyncio.create_task(poisson(pool, sent, self.options.memory_rate, float("inf")))
        levels = []
        try:
            for _ in range(self.options.memory_swaps):
                await self.swap(next(others))
                await asyncio.sleep(self.options.settle)
                levels.append(_memory_mb([status.pid for status in self.service.live()]))
        finally:
            light.cancel()
        print(f"\n{len(levels)} swaps under {self.options.memory_rate:g} requests/s")
        for name, level in zip(("RSS", "USS"), np.transpose(levels), strict=True):
            first = level[LEVEL_AT - 1]
            away = max(level[LEVEL_AT - 1 :] - first, key=abs) / first
            print(
                f"{name} of all workers: {first:.1f} MB after swap {LEVEL_AT}, {level[-1]:.1f} MB at the "
                f"end; furthest from the former {100 * away:+.1f} %"
            )
            print("  " + " ".join(f"{value:.0f}" for value in level))


def _memory_mb(pids: Sequence[int]) -> tuple[float, float]:
    """Resident memory of some processes, and what of it is theirs alone."""
    found = [psutil.Process(pid).memory_full_info() for pid in pids]
    return sum(info.rss for info in found) / 1e6, sum(info.uss for info in found) / 1e6


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}, median {np.median(values):.2f}" if values else "no"


if __name__ == "__main__":
    main()
