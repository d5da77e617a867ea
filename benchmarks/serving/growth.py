"""What does a candidate cost, of few and of many in a request, and of few and of many in the catalogue?

    python -m benchmarks.serving.growth OUT [LARGER ...]

Each OUT is what `benchmarks.serving.workload` wrote, with as many items as it was asked for; all are served
at once, by two workers each, and driven in turn. A candidate's cost is the processor's time over 8
connections, and the p50 over one connection divided by the candidates; beside it that of onnxruntime alone on
`flat.onnx` of the first OUT. Prints medians over the rounds, and the ratios of the costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.machine import describe
from benchmarks.running import end_on_sigterm, serving
from benchmarks.serving import anchors, wrk
from benchmarks.serving.answers import bundle_of, counts_of
from benchmarks.serving.servers import WORKERS, Running

CANDIDATES = (50, 100, 200, 500, 1000, 2000)
CONNECTIONS = 8
WARM_UP_S = 2.0
SEED = 6
FLAT = "bare flat.onnx"
FEW, MANY = 500, 2000


@dataclass(frozen=True, slots=True)
class Cost:
    """What a candidate took.

    Attributes:
        per_s: candidates a second, with both cores.
        cpu_us: microseconds of processor time, then.
        p50_us: of one request after another, a candidate.
    """

    per_s: float
    cpu_us: float
    p50_us: float


Costs = Mapping[tuple[str, int], Sequence[Cost]]
"""a round each, by who served and how many candidates a request had"""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "outs", metavar="OUT", type=Path, nargs="+", help="what benchmarks.serving.workload wrote"
    )
    parser.add_argument("--candidates", type=int, nargs="+", default=[*CANDIDATES], help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=4.0, help="each measurement [%(default)g]")
    parser.add_argument("--state-mib", type=int, help="of each service's budget [its own choice]")
    options = parser.parse_args()
    end_on_sigterm()
    wrk.install()
    print(describe())
    print("\n".join(report(measure(options))))


def measure(options: argparse.Namespace) -> Costs:
    """The costs of all rounds."""
    costs: dict[tuple[str, int], list[Cost]] = defaultdict(list)
    settings = {} if options.state_mib is None else {"state_mib": options.state_mib}
    with ExitStack() as stack:
        scripts, services = {}, {}
        for out in options.outs:
            users, items = counts_of(out)
            name, folder = f"{items:,} items", Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for candidates in options.candidates:
                script = wrk.write(folder, candidates, users=users, items=items, seed=SEED)
                scripts[name, candidates] = script
            service = stack.enter_context(serving(out / "models", workers=WORKERS, **settings))
            services[name] = Running(service.port, service.process.pid)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for candidates in options.candidates:
                for name, running in services.items():
                    cost = _cost(running, scripts[name, candidates], candidates, options.seconds)
                    costs[name, candidates].append(cost)
                script = scripts[next(iter(services)), candidates]
                costs[FLAT, candidates].append(_flat(options.outs[0], script, options.seconds))
    return costs


def _cost(running: Running, script: Path, candidates: int, seconds: float) -> Cost:
    wrk.drive(script, running.port, connections=CONNECTIONS, seconds=WARM_UP_S)
    before = running.cpu_s()
    many = wrk.drive(script, running.port, connections=CONNECTIONS, seconds=seconds)
    spent = running.cpu_s() - before
    one = wrk.drive(script, running.port, connections=1, seconds=seconds)
    if failed := many.failed + one.failed:
        raise RuntimeError(f"{failed} requests of {candidates} candidates failed")
    ranked = many.requests * candidates
    return Cost(ranked / many.seconds, 1e6 * spent / ranked, 1e3 * one.p50_ms / candidates)


def _flat(out: Path, script: Path, seconds: float) -> Cost:
    """By onnxruntime alone, which keeps both cores busy."""
    bodies = script.with_suffix(".jsonl").read_bytes().splitlines()
    (anchor,) = anchors.measure(bundle_of(out), bodies, seconds, ["flat"])
    cpu_us = 1e6 * anchors.CORES / anchor.per_s
    return Cost(anchor.per_s, cpu_us, 1e3 * anchor.p50_ms / anchor.candidates)


def report(costs: Costs) -> Iterator[str]:
    """Tables of the medians, and the ratios of the costs, each of one round, then the median."""
    names, sizes = (list(dict.fromkeys(each)) for each in zip(*costs, strict=True))
    for name in names:
        yield f"\n{name}\n{'candidates':>12}{'candidates/s':>15}{'CPU us each':>14}{'p50 us each':>14}"
        for size in sizes:
            rounds = costs[name, size]
            per_s, cpu_us, p50_us = (
                median(getattr(each, figure) for each in rounds) for figure in ("per_s", "cpu_us", "p50_us")
            )
            yield f"{size:12}{per_s:15,.0f}{cpu_us:14.2f}{p50_us:14.2f}"
        if {FEW, MANY} <= {*sizes}:
            yield f"{MANY:,} / {FEW} candidates: {_ratio(costs[name, MANY], costs[name, FEW])}"
    yield ""
    first, *others = names
    for size in sizes:
        for name in others:
            ours, theirs = (first, name) if name == FLAT else (name, first)
            ratio = _ratio(costs[ours, size], costs[theirs, size])
            yield f"{size:,} candidates, {ours} / {theirs}: {ratio}"


def _ratio(ours: Sequence[Cost], theirs: Sequence[Cost]) -> str:
    pairs = list(zip(ours, theirs, strict=True))
    cpu, p50 = median(a.cpu_us / b.cpu_us for a, b in pairs), median(a.p50_us / b.p50_us for a, b in pairs)
    rate = median(b.per_s / a.per_s for a, b in pairs)
    return f"a candidate takes {cpu:.2f} of its processor time, {rate:.2f} of both cores', {p50:.2f} of p50"


if __name__ == "__main__":
    main()
