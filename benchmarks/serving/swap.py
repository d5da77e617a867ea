"""What does a caller notice when a version of a million items takes the place of another?

    python -m benchmarks.serving.workload OUT --items 1000000 --state float16
    python -m benchmarks.serving.swap OUT --state-mib 1024

An open-loop load of distinct items drawn by Zipf's law, every request another one: a minute without a swap,
and a minute from the PUT of a version as large. Where the promotion takes longer, up to its answer: "from the
PUT on" is then the loading alone, and "after that" is empty. That version is the same bundle by another name,
with a state of its own. Prints latencies of both and the ratio of their p99, and what the service held in
memory all along. Fails where a request failed, or the state was ever above its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.load import Outcome, Pool, message, poisson, report
from benchmarks.machine import describe
from benchmarks.running import Service, deployed, end_on_sigterm, serving
from benchmarks.serving.answers import bundle_of, counts_of
from benchmarks.serving.held import Held, held, told, within
from benchmarks.serving.zipf import Zipf
from service.bundle.manifest import MANIFEST_FILE

TOKEN = "swap"
SEED = 9
CONNECTIONS = 16
REQUESTS = 10_000
"""different ones, sent in turn"""
LOOK_S = 2.0
SWAP_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Swapped:
    """The outcomes before the PUT, from the PUT to its answer, and after that; and how long it took."""

    quiet: Sequence[Outcome]
    loading: Sequence[Outcome]
    after: Sequence[Outcome]
    took_s: float

    @property
    def noticed(self) -> list[Outcome]:
        """From the PUT on."""
        return [*self.loading, *self.after]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="what benchmarks.serving.workload wrote")
    parser.add_argument("--state-mib", type=int, default=1024, help="of the budget [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="of the service [%(default)s]")
    parser.add_argument("--rate", type=float, default=20, help="requests a second [%(default)s]")
    parser.add_argument("--candidates", type=int, default=500, help="a request [%(default)s]")
    parser.add_argument("--warm-up", type=float, default=60, help="seconds of load [%(default)s]")
    parser.add_argument(
        "--seconds", type=float, default=60, help="before the PUT, and from it on [%(default)s]"
    )
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    users, items = counts_of(options.out)
    asked = [
        message("POST", "/v1/rank", body)
        for body in Zipf(items, SEED).bodies(REQUESTS, options.candidates, users)
    ]
    load = f"{options.rate:g} requests/s of {options.candidates} candidates by Zipf's law"
    print(f"\n{items:,} items; {options.workers} workers; {load}")
    with tempfile.TemporaryDirectory() as folder:
        versions = with_twin(bundle_of(options.out), Path(folder))
        settings = {"state_mib": options.state_mib, "token": TOKEN, "swap_timeout_s": SWAP_LIMIT_S}
        with (
            deployed(Path(folder), versions) as models,
            serving(models, workers=options.workers, **settings) as service,
        ):
            looks: list[Held] = []
            swapped = uvloop.run(measure(service, asked, versions[1], options, looks))
    print_all(swapped, looks, options.state_mib)
    if any(outcome.kind != "ok" for outcome in [*swapped.quiet, *swapped.noticed]):
        sys.exit("requests failed")
    if not within(looks, options.state_mib):
        sys.exit("the items' state was above its budget")


def with_twin(bundle: Path, folder: Path) -> tuple[str, str]:
    """Put a bundle into a folder, and a copy of it under another name; their versions."""
    twin = f"{bundle.name}-twin"
    (folder / bundle.name).symlink_to(bundle.resolve(strict=True), target_is_directory=True)
    shutil.copytree(bundle, folder / twin)
    manifest = folder / twin / MANIFEST_FILE
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "version": twin}))
    return bundle.name, twin


async def measure(
    service: Service, asked: Sequence[bytes], version: str, options: argparse.Namespace, looks: list[Held]
) -> Swapped:
    """The load with a swap in its midst; adds what was held all along to `looks`."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    async with Pool(service.port) as pool:
        await pool.open(CONNECTIONS)
        await poisson(pool, asked, options.rate, options.warm_up, seed=1)
        async with looking(service, looks):
            load = asyncio.create_task(poisson(pool, asked[::-1], options.rate, float("inf"), over=over))
            try:
                await asyncio.sleep(options.seconds)
                began = loop.time()
                await promote(service, version)
                ended = loop.time()
                await asyncio.sleep(max(0.0, began + options.seconds - ended))
            finally:
                over.set()
            outcomes = await load
    return Swapped(
        quiet=[outcome for outcome in outcomes if outcome.planned < began],
        loading=[outcome for outcome in outcomes if began <= outcome.planned < ended],
        after=[outcome for outcome in outcomes if ended <= outcome.planned],
        took_s=ended - began,
    )


@asynccontextmanager
async def looking(service: Service, looks: list[Held]) -> AsyncIterator[None]:
    """Look every so often at what the service holds, as long as the block lasts."""

    async def look() -> None:
        while True:
            looks.append(await asyncio.to_thread(held, service))
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def promote(service: Service, version: str) -> None:
    """By PUT. RuntimeError where that is refused, or not every worker has followed."""
    answer = await asyncio.to_thread(service.ask, "PUT", "/v1/rankers/default", {"version": version}, TOKEN)
    if answer.status_code != 200 or len(answer.json()["workers"]) != service.workers:
        raise RuntimeError(f"{version} was not promoted: {answer.text}")


def print_all(swapped: Swapped, looks: Sequence[Held], budget_mib: float) -> None:
    """The latencies of every part, the ratio, and the memory."""
    parts = {
        "without a swap": swapped.quiet,
        f"from the PUT to its answer, {swapped.took_s:.1f} s": swapped.loading,
        "after that": swapped.after,
        "both, from the PUT on": swapped.noticed,
    }
    for what, outcomes in parts.items():
        print(f"\n{what}: {report(outcomes)}")
    noticed, quiet = (p99_ms(each) for each in (swapped.noticed, swapped.quiet))
    print(f"\np99 from the PUT on / without a swap: {noticed:.1f} / {quiet:.1f} ms = {noticed / quiet:.2f}")
    print(f"\n{told(looks, budget_mib)}")


def p99_ms(outcomes: Sequence[Outcome]) -> float:
    """Of all that were asked, from when each was due."""
    return float(np.percentile([1e3 * outcome.latency_s for outcome in outcomes], 99))


if __name__ == "__main__":
    main()
