"""Do the scores over HTTP equal the trainer's offline ones?

    python -m benchmarks.parity --models models --version 20240511-1 --config configs/synthetic.toml

Takes logged impressions of the days after training, and ranks each one's user and context with the logged
video among others; asks a service of one worker and one of two, singly and several at a time. Offline is
`flat.onnx` on columns encoded as the log's. Prints the greatest disagreement of each case, over every task's
score and the fused one: |a - b| / max(1, |b|), which must be 1e-5 at most; and the greatest |a - b| / |b|, as
scores can be small.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.load import Pool, in_parallel, message
from benchmarks.machine import describe
from benchmarks.offline import Offline, Request, Scores, answered
from benchmarks.running import Service, deployed, end_on_sigterm, serving
from service.bundle.golden import disagreement
from training.config import load_config
from training.datasets import load_log
from training.examples import split_log
from training.impressions import Impressions


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--version", required=True, help="the bundle")
    parser.add_argument("--config", type=Path, required=True, help="what it was trained with")
    parser.add_argument("--data", type=Path, help="folder of the log; a synthetic world needs none")
    parser.add_argument("--set", action="append", default=[], help="as ranktrain's: key.path=value")
    parser.add_argument("--requests", type=int, default=200, help="impressions [%(default)s]")
    parser.add_argument("--candidates", type=int, default=200, help="a request [%(default)s]")
    parser.add_argument("--at-a-time", type=int, default=8, help="under concurrency [%(default)s]")
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    config = load_config(options.config, options.set)
    test = split_log(load_log(config.dataset, options.data), config.split)["test"].impressions
    requests = drawn(test, options.requests, options.candidates)
    offline = Offline(options.models / options.version)
    expected = [offline.scores(request) for request in requests]
    print(f"\n{len(requests)} requests of {options.candidates} candidates, {len(expected[0].tasks)} tasks")
    with deployed(options.models, [options.version]) as models:
        for workers in (1, 2):
            with serving(models, workers=workers) as service:
                for at_a_time in (1, options.at_a_time):
                    apart, relative = uvloop.run(greatest(service, requests, expected, at_a_time))
                    case = f"{workers} workers, {at_a_time} at a time"
                    print(f"{case}: greatest disagreement {apart:.1e}, relative {relative:.1e}")


def drawn(log: Impressions, count: int, candidates: int, seed: int = 0) -> list[Request]:
    """Requests in the context of logged impressions, the logged item among others of the log."""
    random = np.random.default_rng(seed)
    items = np.unique(log.item_id.astype(str))
    requests = []
    for at in random.choice(len(log), count, replace=False).tolist():
        logged = str(log.item_id[at])
        others = random.permutation(items[items != logged])[: candidates - 1].tolist()
        context = {name: column.at(at) for name, column in log.context.items()}
        requests.append(Request(str(log.user_id[at]), context, [logged, *others]))
    return requests


async def greatest(
    service: Service, requests: Sequence[Request], expected: Sequence[Scores], at_a_time: int
) -> tuple[float, float]:
    """The greatest disagreement of any score of any answer, and the greatest relative one.

    RuntimeError where a request is not answered.
    """
    sent = [message("POST", "/v1/rank", request.body(tasks=True)) for request in requests]
    async with Pool(service.port) as pool:
        await pool.open(at_a_time)
        outcomes = await in_parallel(pool, sent, at_a_time)
    apart = relative = 0.0
    for outcome, request, scores in zip(outcomes, requests, expected, strict=True):
        if outcome.kind != "ok":
            raise RuntimeError(f"request {outcome.request}: {outcome.kind}: {outcome.body!r}")
        found = answered(outcome.json(), request.item_ids)
        pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [(found.fused, scores.fused)]
        pairs += [(found.tasks[task], scores.tasks[task]) for task in scores.tasks]
        for ours, theirs in pairs:
            apart = max(apart, disagreement(ours, theirs))
            least = np.finfo(np.float32).tiny  # a completion can be 0
            relative = max(relative, float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), least)).max()))
    return apart, relative


if __name__ == "__main__":
    main()
