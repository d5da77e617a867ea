"""Who estimates P(conversion given click) best for all impressions, of which one in twenty is clicked?

    python -m benchmarks.entire_space

Trains four estimators of the same sizes on the same logs, as benchmarks/entire_space.toml fixes them: ESMM;
DIVISION, which is P(buy) / P(click), a network each; click-only, a network of the clicked impressions; naive,
a network of the share of all impressions that convert. The logs are of synthetic worlds, ten with a hidden
taste of the users that moves click and conversion alike, and ten without.

**The truth** is the world's own P(buy given click) of each impression, clicked or not: `Log.truth`. It holds
the user's hidden taste, which no estimator sees. The best that one could say who sees all but the taste is
the truth's mean over the taste (the last line but one). What clicks and conversions tell is another thing:
that mean over the tastes of *those who click*, P(buy) / P(click) with either averaged over the taste (the
last line). To this come click-only, ESMM and DIVISION alike with endless data, so that no log of clicks takes
the bias from them. Without a hidden taste both are the truth.

Prints mean ± deviation over the seeds, over all impressions of the test days, in percentage points: the mean
absolute error and the signed bias against the truth, and the mean absolute error against its mean over the
taste; then the AUC of pCVR for conversions on clicked impressions. A constant, the share of training clicks
that convert, shows what telling impressions apart is worth.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe
from service.bundle.encoder import Encoder
from training.config import TrainingConfig, load_config
from training.datasets import load_log
from training.datasets.world import SyntheticConfig, World
from training.evaluate import scores_of
from training.examples import encode, model_inputs, split_log
from training.features import fit_features
from training.fit import fit, logits_of
from training.impressions import Log
from training.metrics import auc
from training.models import build

Floats = NDArray[np.float64]

CONFIG: Final = Path(__file__).with_suffix(".toml")
TASK: Final = "buy_given_click"
WORLDS: Final[Mapping[str, tuple[str, ...]]] = {
    "with a hidden taste": (),
    "without": ("dataset.hidden_taste=0",),
}
ESTIMATORS: Final[Mapping[str, tuple[str, ...]]] = {
    "ESMM": (),
    "DIVISION": ("model.variant=division",),
    "click-only": (
        "model.name=single_task",
        f'tasks=[{{ name = "{TASK}", label = "buy", mask = "click" }}]',
    ),
    "naive": ("model.name=single_task", f'tasks=[{{ name = "{TASK}", label = "buy" }}]'),
}
"""How the config of each differs from the file's."""
CONSTANT: Final = "a constant"
BLIND: Final = "the truth's mean over the taste"
CLICKERS: Final = "the same of those who click"
NODES: Final = 9
"""of the quadrature over the taste; a smooth function of a normal number needs no more"""


@dataclass(frozen=True, slots=True)
class Score:
    """What an estimate of pCVR is worth, over all impressions; errors are shares, not percentages."""

    mae: float
    bias: float
    mae_blind: float
    auc: float | None


@dataclass(frozen=True, slots=True)
class Truth:
    """P(buy given click) of impressions, ``[n]`` each: as it is; the same averaged over the hidden taste; and
    over the hidden taste of those who click."""

    own: Floats
    blind: Floats
    clickers: Floats


@dataclass(frozen=True, slots=True)
class Seen:
    """The rates of a log: clicks an impression, conversions a click, and mean truth of all impressions."""

    click: float
    conversion: float
    truth: float


def main() -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="worlds of either kind [%(default)s]")
    options = parser.parse_args()
    print(describe())
    print("\npCVR of all impressions of the test days, in percentage points: mean ± deviation over the seeds")
    for name, changed in WORLDS.items():
        runs = [measured(seed, changed) for seed in range(options.seeds)]
        print("\n" + "\n".join(report(name, [seen for seen, _ in runs], [scores for _, scores in runs])))


def measured(seed: int, changed: Sequence[str]) -> tuple[Seen, dict[str, Score]]:
    """The log of one world, and what each estimator that is trained on it is worth on its test days."""
    overrides = [*changed, f"dataset.seed={seed}"]
    configs = {name: load_config(CONFIG, [*overrides, *own]) for name, own in ESTIMATORS.items()}
    config = configs["ESMM"]
    if not isinstance(config.dataset, SyntheticConfig):
        raise SystemExit(f"{CONFIG.name} is of the dataset {config.dataset.name}, whose truth nobody knows")
    log = load_log(config.dataset)
    parts = split_log(log, config.split)
    truth = truth_of(config.dataset, parts["test"])
    encoder = fit_features(config.features, parts["train"])
    labels = parts["train"].impressions.labels
    constant = labels["buy"].sum(dtype=np.float64) / labels["click"].sum(dtype=np.float64)
    estimates = {CONSTANT: np.full(len(truth.own), constant), BLIND: truth.blind, CLICKERS: truth.clickers}
    for name, own in configs.items():
        print(f"seed {seed}: {name}", file=sys.stderr, flush=True)
        estimates[name] = estimate(own, encoder, parts, seed)
    tested = parts["test"].impressions.labels
    order = [*ESTIMATORS, CONSTANT, BLIND, CLICKERS]
    return seen(log), {name: score(estimates[name], truth, tested) for name in order}


def estimate(config: TrainingConfig, encoder: Encoder, parts: Mapping[str, Log], seed: int) -> Floats:
    """Give pCVR ``[n]`` of the test days' impressions, by a model trained as `ranktrain fit` does it."""
    torch.set_num_threads(config.train.threads)
    torch.manual_seed(seed)
    examples = {name: encode(encoder, part.impressions, config.tasks) for name, part in parts.items()}
    model = build(config.model, model_inputs(encoder.schema), [task.spec() for task in config.tasks])
    fit(model, examples["train"], examples["validate"], config.tasks, config.train, seed, lambda *_: None)
    return scores_of(logits_of(model, examples["test"]), config.tasks)[TASK].astype(np.float64)


def truth_of(config: SyntheticConfig, log: Log) -> Truth:
    """The truth of a log's impressions; means over the taste by Gauss-Hermite quadrature."""
    world, shown = World(config), log.impressions
    click, buy, blind = (np.zeros(len(log)) for _ in range(3))
    own = (log.truth or {})[TASK]
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    for node, weight in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True):
        at = world.probabilities(shown.user_id, shown.item_id, shown.context, hidden_taste=node)
        click += weight * at["click"]
        buy += weight * at["buy"]
        blind += weight * at[TASK]
    return Truth(own, blind, buy / click)


def seen(log: Log) -> Seen:
    """The rates of a log."""
    labels = log.impressions.labels
    clicks = labels["click"].sum(dtype=np.float64)
    buys = labels["buy"].sum(dtype=np.float64)
    return Seen(float(clicks / len(log)), float(buys / clicks), float((log.truth or {})[TASK].mean()))


def score(estimate: Floats, truth: Truth, labels: Mapping[str, NDArray[np.float32]]) -> Score:
    """Errors over all impressions ``[n]``; AUC over the clicked, None where they are all of one class."""
    clicked = labels["click"] == 1
    return Score(
        mae=float(np.abs(estimate - truth.own).mean()),
        bias=float((estimate - truth.own).mean()),
        mae_blind=float(np.abs(estimate - truth.blind).mean()),
        auc=auc(estimate[clicked], labels["buy"][clicked]),
    )


def report(world: str, logs: Sequence[Seen], runs: Sequence[Mapping[str, Score]]) -> list[str]:
    """The lines of one kind of world: means and deviations over its seeds, a line an estimate.

    Args:
        world: its name.
        logs: by seed.
        runs: by seed, scores by estimate.
    """
    click, conversion, truth = (
        spread([100 * getattr(log, key) for log in logs]) for key in ("click", "conversion", "truth")
    )
    lines = [
        f"{world}: clicks {click} % of impressions, conversions {conversion} % of clicks,",
        f"  P(buy given click) of all impressions {truth} % on average; {len(runs)} seeds",
        f"  {'':<31} {'MAE':>15} {'bias':>15} {'MAE, taste aside':>17} {'AUC on clicks':>15}",
    ]
    for name in runs[0]:
        scores = [run[name] for run in runs]
        errors = [
            spread([100 * getattr(score, key) for score in scores]) for key in ("mae", "bias", "mae_blind")
        ]
        areas = spread([score.auc for score in scores if score.auc is not None])
        lines.append(f"  {name:<31} {errors[0]:>15} {errors[1]:>15} {errors[2]:>17} {areas:>15}")
    return [*lines, *nearer(runs)]


def nearer(runs: Sequence[Mapping[str, Score]]) -> list[str]:
    """In how many seeds ESMM is nearer the truth than each other estimator, a line."""
    wins = [
        f"{name} in {sum(run['ESMM'].mae < run[name].mae for run in runs)}"
        for name in runs[0]
        if name in (*ESTIMATORS, CONSTANT) and name != "ESMM"
    ]
    return [f"  ESMM is nearer the truth (MAE) than {', '.join(wins)} of {len(runs)} seeds"]


def spread(values: Sequence[float]) -> str:
    """Mean ± deviation; of one value the mean alone, of none a dash."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    main()
