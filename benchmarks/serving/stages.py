"""Where does the time of one request go, from the caller's question to the caller's answer?

    python -m benchmarks.serving.stages --models .bench/kuairand-mmoe/models --version 1

One worker with its features in a Redis of its own, and one connection: requests of logged users, each with
candidates drawn from the whole catalogue, whose rows the worker has near. First with users that it has not
seen, whose rows it fetches; then the same requests again. What happens between the request and its slate the
worker measures itself. Reading the request and writing the answer are measured here, in a process that runs
the same code on the same requests; the rest of the caller's time is HTTP: the socket, the head, the routes.
Prints the median of every stage and its share of the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import uvloop

from benchmarks.features import DEADLINE_S, running
from benchmarks.load import Connection, message
from benchmarks.machine import describe
from benchmarks.offline import Offline
from benchmarks.redis_faults import load_features
from benchmarks.redis_server import RedisServer, redis_server
from benchmarks.running import Service, deployed, end_on_sigterm, serving
from service.api import Serving, codec, slate_json
from service.ranker import best

LASTING = {"features_ttl_s": 3_600, "features_timeout_ms": 5_000, "features_near_rows": 500_000}
"""nothing that is near goes by itself, and no fetch is given up"""
WARM_UP = 200
MOST_SHARE = 0.30
"""of fetch and encode together, in the whole"""
NAMES = {
    "http": "HTTP: socket, head, routes",
    "parse": "parse and validate the JSON",
    "fetch": "fetch features",
    "encode": "encode features",
    "wait": "queue, and the way to the engine and back",
    "user": "infer: user.onnx",
    "item": "infer: items' state",
    "rank": "infer: rank.onnx",
    "fuse": "fuse the scores",
    "order": "order",
    "answer": "encode the answer",
    "whole": "the whole",
}
"""of the stages, on a request's way"""

Stages = Mapping[str, float]
"""milliseconds of one request"""


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--version", required=True, help="the bundle")
    parser.add_argument("--candidates", type=int, default=500, help="a request [%(default)s]")
    parser.add_argument("--requests", type=int, default=500, help="[%(default)s]")
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    with (
        redis_server() as redis,
        deployed(options.models, [options.version]) as models,
        serving(models, workers=1, redis=redis.url, **LASTING) as service,
    ):
        load_features(redis, models, options.version)
        measured = uvloop.run(measure(service, redis, models, options))
    print(f"\n{options.requests} requests of {options.candidates} candidates, one after another; medians")
    print("\n".join(table(measured)))


async def measure(
    service: Service, redis: RedisServer, models: Path, options: argparse.Namespace
) -> dict[str, list[Stages]]:
    """The stages of every request, with users not seen before and with the same again."""
    offline = Offline(models / options.version)
    warm_up, measured = (
        [
            json.dumps(request.body(tasks=True)).encode()
            for request in offline.requests(count, options.candidates, seed)
        ]
        for count, seed in ((WARM_UP, 1), (options.requests, 2))
    )
    connection = await Connection.open(service.port)
    async with running(models, redis=redis.url) as own:
        for body in warm_up:
            await stages(connection, own, body)
        found = {
            name: [await stages(connection, own, body) for body in measured]
            for name in ("new users", "all near")
        }
    connection.close()
    return found


async def stages(connection: Connection, own: Serving, body: bytes) -> Stages:
    """One request's stages. RuntimeError where it is not answered, or the answer lacks features."""
    asked = message("POST", "/v1/rank", json.loads(body))
    started = perf_counter()
    answer = await connection.ask(asked)
    whole = perf_counter() - started
    if answer.status != 200 or (told := answer.json())["degraded"]:
        raise RuntimeError(f"answered with {answer.status}: {answer.body[:300]!r}")
    times = [perf_counter()]
    request = codec.decode_rank(body, own.settings.max_candidates)
    times.append(perf_counter())
    slate = await own.ranker.rank(request, asyncio.get_running_loop().time() + DEADLINE_S)
    times.append(perf_counter())
    best(slate.scores, None)
    times.append(perf_counter())
    slate_json.encode(slate, "request", tasks=True)
    times.append(perf_counter())
    parse, _, order, encode = (1e3 * np.diff(times)).tolist()
    inner = dict(told["timings_ms"])
    http = 1e3 * whole - parse - inner.pop("total") - encode
    inner["fuse"] = max(0.0, inner["fuse"] - order)
    return {"http": http, "parse": parse, **inner, "order": order, "answer": encode, "whole": 1e3 * whole}


def table(measured: Mapping[str, Sequence[Stages]]) -> Iterator[str]:
    """A line a stage: its median and its share of the whole's; then what the acceptance asks for."""
    medians = {
        name: {stage: float(np.median([each[stage] for each in requests])) for stage in requests[0]}
        for name, requests in measured.items()
    }
    yield f"| {'stage':42}" + "".join(f"| {name + ', ms':>14} | share " for name in medians) + "|"
    yield "| --- " + "| ---: | ---: " * len(medians) + "|"
    for stage in dict.fromkeys(stage for each in medians.values() for stage in each):
        cells = "".join(
            f"| {each[stage]:14.3f} | {each[stage] / each['whole']:5.1%} " for each in medians.values()
        )
        yield f"| {NAMES.get(stage, stage):42}{cells}|"
    for name, requests in measured.items():
        share = float(np.median([(each["fetch"] + each["encode"]) / each["whole"] for each in requests]))
        parts = {stage: ms for stage, ms in medians[name].items() if stage != "whole"}
        first, second = sorted(parts, key=parts.__getitem__, reverse=True)[:2]
        yield (
            f"{name}: fetch and encode take {share:.1%} of the whole (at most {MOST_SHARE:.0%}); "
            f"most goes to: {NAMES.get(first, first)}, then {NAMES.get(second, second)}"
        )


if __name__ == "__main__":
    main()
