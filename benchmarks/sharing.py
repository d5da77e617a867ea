"""What is it worth that small requests share runs of the engine?

    python -m benchmarks.serving.workload OUT
    python -m benchmarks.sharing OUT

Two services of the same workers, one that shares runs as it finds best and one that never does, under the
same closed loop of many connections with few candidates each: in turn, the first of a round the last of the
next. Medians over the rounds, and their ratios.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.machine import describe
from benchmarks.running import Service, end_on_sigterm, serving
from benchmarks.serving import wrk
from benchmarks.serving.servers import Running
from benchmarks.serving.workload import SEED, Sizes

WARM_UP_S = 2.0
SHARED, ALONE = "shared", "one request a run"


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder that benchmarks.serving.workload wrote")
    parser.add_argument("--connections", type=int, default=64, help="[%(default)s]")
    parser.add_argument("--candidates", type=int, default=20, help="a request [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="of each service [%(default)s]")
    parser.add_argument("--rounds", type=int, default=6, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=3, help="of each load [%(default)s]")
    options = parser.parse_args()
    end_on_sigterm()
    wrk.install()
    print(describe())
    models = options.out / "models"
    with (
        tempfile.TemporaryDirectory() as scripts,
        serving(models, workers=options.workers, share_runs="auto") as shared,
        serving(models, workers=options.workers, share_runs="never") as alone,
    ):
        sizes = Sizes()
        wrk.write(Path(scripts), options.candidates, users=sizes.users, items=sizes.items, seed=SEED)
        print("\n".join(sorted(set(chosen(shared)))))
        found = measure({SHARED: shared, ALONE: alone}, Path(scripts), options)
    report(found, options)


def chosen(service: Service) -> list[str]:
    """What each worker says about sharing, as it found it when it loaded the version."""
    messages = (json.loads(line)["message"] for line in service.log.read_text().splitlines())
    return [message for message in messages if "share runs" in message or "runs of its own" in message]


class Figures(NamedTuple):
    """What a service did under a load."""

    rate: float
    """requests per second"""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """of processor time a request, in all its processes: hardly disturbed by what else runs"""
    failed: float


def measure(
    services: Mapping[str, Service], scripts: Path, options: argparse.Namespace
) -> dict[str, list[Figures]]:
    """The figures of every round, by service."""
    found: dict[str, list[Figures]] = {name: [] for name in services}

    def drive(name: str, seconds: float) -> Figures:
        running = Running(services[name].port, services[name].process.pid)
        before, script = running.cpu_s(), scripts / f"rank-{options.candidates}.lua"
        load = wrk.drive(script, running.port, connections=options.connections, seconds=seconds)
        cpu_ms = 1e3 * (running.cpu_s() - before) / load.requests
        return Figures(load.requests / load.seconds, load.p50_ms, load.p99_ms, cpu_ms, load.failed)

    names = list(services)
    for name in names:
        drive(name, WARM_UP_S)
    for _ in range(options.rounds):
        for name in names:
            found[name].append(drive(name, options.seconds))
        names.reverse()
    return found


def report(found: Mapping[str, list[Figures]], options: argparse.Namespace) -> None:
    """Print each service's medians, and the ratios."""
    size = f"{options.connections} connections with {options.candidates} candidates each"
    print(f"\n{size}, {options.rounds} rounds of {options.seconds:g} s")
    print("| | requests/s | p50 ms | p99 ms | CPU ms a request | failed |")
    print("| --- | --- | --- | --- | --- | --- |")
    medians = {name: Figures(*map(median, zip(*rounds, strict=True))) for name, rounds in found.items()}
    for name, figures in medians.items():
        print(f"| {name} | {{:.0f}} | {{:.1f}} | {{:.1f}} | {{:.2f}} | {{:.0f}} |".format(*figures))
    ratios = [shared / alone for shared, alone in zip(medians[SHARED], medians[ALONE], strict=True) if alone]
    print("| ratio | {:.2f} | {:.2f} | {:.2f} | {:.2f} | |".format(*ratios))


if __name__ == "__main__":
    main()
