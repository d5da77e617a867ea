"""How fast does it serve, beside onnxruntime alone and the frameworks that people serve models with?

    python -m benchmarks.serving.run OUT --envs DIR [--rounds 3] [--seconds 10] [--peers mosec litserve]

OUT is what `benchmarks.serving.workload` wrote; DIR, away from this project, gets an environment a peer. In
every round each server in turn is started with two workers, its scores are checked against `flat.onnx`, and
wrk drives it with 8 connections and with one; ours once more with the best 50 asked for in place of all, and
in int8 where the bundle has it: its scores are within the tolerance that the bundle states for that.
With --poisson, the highest rate of requests at random times is looked for whose 99th percentile is within
50 ms in one of two tries. A peer runs without and with batches of its framework (`+`); ``NAME split`` is a
peer that runs this project's graphs with the items' state, in place of `flat.onnx`.
Prints the medians over the rounds, from least to most, what they come to beside each other, and what LightGBM
alone takes for as many candidates.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.machine import describe
from benchmarks.running import end_on_sigterm
from benchmarks.serving import anchors, open_loop, wrk
from benchmarks.serving.anchors import Anchor
from benchmarks.serving.answers import Expected, WrongAnswer, bundle_of, expected, requests_of
from benchmarks.serving.peers.environments import PEERS, NotInstalled, prepared, trees, versions
from benchmarks.serving.report import Measured, report
from benchmarks.serving.servers import FLOAT32, OURS, DidNotStart, Running, Server, names
from service.bundle.store import read_manifest

CONNECTIONS = 8
CHECKED = 8
"""requests of each size whose answers are checked before a server is measured"""
WARM_UP_S = 2.0
LIMIT = 50


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is driven with.

    Attributes:
        name: in the report.
        candidates: of each request.
        script: of wrk's, its requests beside it.
    """

    name: str
    candidates: int
    script: Path


def main() -> None:
    """Run it."""
    end_on_sigterm()
    options = _options()
    wrk.install()
    print(describe(), flush=True)
    peers = list(_installed(options.peers, options.envs))
    bundle = bundle_of(options.out)
    int8 = read_manifest(bundle).int8 is not None
    servers = [Server(name, options.out, options.envs) for name in [*names(peers, int8), *options.also]]
    right = {
        precision: {
            size: expected(bundle, requests_of(options.out, size)[:CHECKED], precision)
            for size in options.candidates
        }
        for precision in OURS.values()
    }
    measured: list[Measured] = []
    bare: list[Anchor] = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        for size in options.candidates:
            bodies = requests_of(options.out, size)
            bare += anchors.measure(bundle, bodies, options.seconds)
        for server in servers:
            answers = right[OURS.get(server.name, "float32")]
            measured += _round(server, answers, options.seconds, options.poisson)
    print(report(bare, measured))
    try:
        print(f"\n{trees(options.envs, max(options.candidates))}")
    except NotInstalled as error:
        print(f"\nLightGBM cannot be installed here, and is left out: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="what benchmarks.serving.workload wrote")
    parser.add_argument("--envs", type=Path, required=True, help="folder of the peers' environments")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=list(PEERS), help="%(default)s")
    parser.add_argument("--also", nargs="*", default=[], help="more servers, e.g. 'mosec split'")
    parser.add_argument("--poisson", action="store_true", help="look for the highest open-loop rate too")
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 500], help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=10.0, help="each measurement [%(default)g]")
    return parser.parse_args()


def _installed(peers: Sequence[str], envs: Path) -> Iterator[str]:
    """The peers that have an environment, each with its versions printed; of the others, the reason."""
    for name in peers:
        try:
            bin_ = prepared(envs, name, PEERS[name].packages)
        except NotInstalled as error:
            print(f"peer: {name} cannot be installed here, and is left out: {error}", flush=True)
            continue
        print(f"peer: {versions(bin_, [name, 'onnxruntime', 'numpy'])}", flush=True)
        yield name


def _round(
    server: Server, right: Mapping[int, Sequence[Expected]], seconds: float, poisson: bool
) -> Iterator[Measured]:
    """Everything about one server, once; nothing, and the reason printed, where it fails."""
    try:
        with server.running() as running:
            for answers in right.values():
                for answer in answers:
                    answer.check(running.rank(answer.body))
            for candidates in right:
                load = Load(server.name, candidates, server.out / "wrk" / f"rank-{candidates}.lua")
                yield _told(_measure(load, running, seconds, poisson))
            if server.name == FLOAT32:
                for measured in _limited(server, running, right, seconds):
                    yield _told(measured)
    except (DidNotStart, WrongAnswer, RuntimeError, httpx.HTTPError) as error:
        print(f"  {server.name} is left out of this round: {error}", file=sys.stderr, flush=True)


def _limited(
    server: Server, running: Running, right: Mapping[int, Sequence[Expected]], seconds: float
) -> Iterator[Measured]:
    """The same requests, each for the best `LIMIT` alone."""
    with tempfile.TemporaryDirectory() as folder:
        for candidates, answers in right.items():
            bodies = [json.loads(body) | {"limit": LIMIT} for body in requests_of(server.out, candidates)]
            for answer, body in zip(answers, bodies, strict=False):
                answer.check(running.rank(json.dumps(body).encode()), LIMIT)
            script = wrk.write_bodies(Path(folder), f"rank-{candidates}", bodies)
            load = Load(f"{server.name} limit {LIMIT}", candidates, script)
            yield _measure(load, running, seconds, poisson=False)


def _told(measured: Measured) -> Measured:
    """The same, printed."""
    print(
        f"  {measured.name:18} {measured.candidates:5} candidates   {measured.per_s:9,.0f} candidates/s"
        f"   p50 {measured.p50_ms:7.2f}   p99 {measured.p99_ms:7.2f} ms"
        + (f"   {measured.failed} requests failed" if measured.failed else ""),
        flush=True,
    )
    return measured


def _measure(load: Load, running: Running, seconds: float, poisson: bool) -> Measured:
    script, candidates = load.script, load.candidates
    wrk.drive(script, running.port, connections=CONNECTIONS, seconds=WARM_UP_S)
    before = running.cpu_s()
    many = wrk.drive(script, running.port, connections=CONNECTIONS, seconds=seconds)
    spent = running.cpu_s() - before
    one = wrk.drive(script, running.port, connections=1, seconds=seconds)
    pss_mb, uss_mb = running.memory_mb()
    rate = None
    if poisson:
        bodies = script.with_suffix(".jsonl").read_bytes().splitlines()
        rate = open_loop.highest(running.port, bodies, many.requests / many.seconds, seconds)
    ranked = (many.requests - many.failed) * candidates
    return Measured(
        name=load.name,
        candidates=candidates,
        per_s=ranked / many.seconds,
        p50_ms=one.p50_ms,
        p99_ms=one.p99_ms,
        cpu_s=1e6 * spent / ranked,
        pss_mb=pss_mb,
        uss_mb=uss_mb,
        failed=many.failed + one.failed,
        poisson=rate,
    )


if __name__ == "__main__":
    main()
