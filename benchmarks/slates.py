"""How good are the slates, against the true probabilities of a synthetic world?

    python -m benchmarks.slates --models models --version 20240511-1 --config configs/synthetic.toml

Ranks random candidates for random users, each in a random context, over HTTP. The gain of a candidate is the
bundle's own formula of the true probabilities (at position 0, as in serving); the ideal slate is in the order
of these. Prints the mean over users of NDCG@10 of the fused score, and for comparison of three other orders:
by the truth without its latent part, which no feature tells; by clicks before the log; at random. Then each
binary task's log loss on the test days, from the manifest, against that of the true probabilities.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks.load import Pool, in_parallel, message
from benchmarks.machine import describe
from benchmarks.offline import Offline, Request, answered
from benchmarks.running import Service, deployed, end_on_sigterm, serving
from service.bundle.columns import as_numbers
from service.bundle.manifest import Manifest
from training.config import TrainingConfig, load_config
from training.datasets.world import SyntheticConfig, World
from training.datasets.world.moments import NETWORKS, TABS
from training.evaluate import truth_name
from training.metrics import ndcg_at

PLACES = 10
AT_A_TIME = 4


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--version", required=True, help="the bundle")
    parser.add_argument("--config", type=Path, required=True, help="what it was trained with")
    parser.add_argument("--set", action="append", default=[], help="as ranktrain's: key.path=value")
    parser.add_argument("--users", type=int, default=500, help="each with one slate [%(default)s]")
    parser.add_argument("--candidates", type=int, default=200, help="a slate [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="of the service [%(default)s]")
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    config = load_config(options.config, options.set)
    if not isinstance(config.dataset, SyntheticConfig):
        parser.error(f"{options.config} is of the dataset {config.dataset.name}, whose truth nobody knows")
    offline = Offline(options.models / options.version)
    requests = drawn(config.dataset, options.users, options.candidates)
    with (
        deployed(options.models, [options.version]) as models,
        serving(models, workers=options.workers) as service,
    ):
        scores = uvloop.run(fused_scores(service, requests))
    print(f"\n{offline.manifest.architecture}: {options.users} users, {options.candidates} candidates each")
    compare(scores, requests, offline, config, config.dataset)
    print_losses(offline.manifest)


def compare(
    scores: NDArray[np.float64],
    requests: list[Request],
    offline: Offline,
    config: TrainingConfig,
    dataset: SyntheticConfig,
) -> None:
    """Print the NDCG of the fused scores ``[users, candidates]``, and of other orders."""
    world, plain = World(dataset), World(dataset.model_copy(update={"latent": 0.0}))
    gains, knowable = (
        np.stack([true_score(truth, offline, config, request) for request in requests])
        for truth in (world, plain)
    )
    orders = {
        "the service": scores,
        "the truth but for its latent part": knowable,
        "clicks before the log": np.stack([clicks_before(world, request) for request in requests]),
        "chance": np.random.default_rng(1).random(gains.shape),
    }
    spread = np.median(gains.std(axis=1) / gains.mean(axis=1))
    print(f"gains: in the median slate, a deviation of {spread:.2f} of the mean")
    for name, order in orders.items():
        mean, error = ndcg(order, gains)
        print(f"NDCG@{PLACES} by {name:<33} {mean:.4f} ± {error:.4f}")


def drawn(config: SyntheticConfig, users: int, candidates: int, seed: int = 0) -> list[Request]:
    """A request for each of so many users, its moment and candidates at random."""
    random = np.random.default_rng(seed)
    return [
        Request(
            user_id=str(user),
            context={
                "hour": int(random.integers(24)),
                "tab": str(random.choice(TABS)),
                "network": str(random.choice(NETWORKS)),
            },
            item_ids=list(map(str, random.choice(config.videos, candidates, replace=False).tolist())),
        )
        for user in random.choice(config.users, users, replace=False).tolist()
    ]


async def fused_scores(service: Service, requests: list[Request]) -> NDArray[np.float64]:
    """Fused scores ``[users, candidates]``, over HTTP. RuntimeError where a request is not answered."""
    sent = [message("POST", "/v1/rank", request.body()) for request in requests]
    async with Pool(service.port) as pool:
        outcomes = await in_parallel(pool, sent, AT_A_TIME)
    if failed := [outcome for outcome in outcomes if outcome.kind != "ok"]:
        raise RuntimeError(f"{len(failed)} requests failed, the first with {failed[0].kind}")
    pairs = zip(outcomes, requests, strict=True)
    return np.stack([answered(outcome.json(), request.item_ids).fused for outcome, request in pairs])


def true_score(
    world: World, offline: Offline, config: TrainingConfig, request: Request
) -> NDArray[np.float64]:
    """The formula ``[candidates]`` of the true probabilities."""
    truth = world.probabilities([request.user_id], request.item_ids, request.context)
    tasks = {task.name: truth[truth_name(task)] for task in config.tasks}
    return offline.fused(tasks, request.item_ids)


def clicks_before(world: World, request: Request) -> NDArray[np.float64]:
    """Clicks ``[candidates]`` before the log, as the item table tells them to everyone."""
    table = world.tables["item"]
    rows = table.rows(request.item_ids)
    shown, rate = (as_numbers(table.columns[name].pick(rows), name) for name in ("shown", "click_rate"))
    clicks: NDArray[np.float64] = shown * rate
    return clicks


def ndcg(scores: NDArray[np.float64], gains: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over the rows of NDCG@10, and its standard error."""
    pairs = zip(scores, gains, strict=True)
    one = np.zeros(scores.shape[1], np.int64)
    each = np.array([ndcg_at(PLACES, ours, theirs, one) for ours, theirs in pairs], np.float64)
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def print_losses(manifest: Manifest) -> None:
    """Each binary task's log loss on the test days, and the truth's."""
    print("\nlog loss on the test days    model    truth    ratio")
    for task, metrics in manifest.metrics["test"].items():
        print_loss(task, metrics)


def print_loss(task: str, metrics: Mapping[str, float | int | None]) -> None:
    """A line of it, where the task has them."""
    model, truth = metrics.get("log_loss"), metrics.get("true_log_loss")
    if model is not None and truth is not None:
        print(f"  {task:<24} {model:8.4f} {truth:8.4f} {model / truth:8.3f}")


if __name__ == "__main__":
    main()
