"""Does one feature contract carry the features that win, at parity and without eating the speed?

    python -m benchmarks.contract --data FOLDER_OF_KUAIRAND

Trains a small MMoE on KuaiRand for one epoch, exports it, and ranks 500 candidates in one process without
HTTP. Prints parity, the milliseconds of every stage, and `flat.onnx` on prebuilt tensors beside the whole,
both on one thread and interleaved. The contract stands when the graphs agree, fetch and encode take at most a
quarter of the whole, and the whole is at least 1.5 times as fast as the flat graph.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.machine import describe
from service.engine import EngineOptions, open_session
from service.model import Model, ModelOptions
from training.aggregates import with_aggregates
from training.config import load_config
from training.datasets import load_log
from training.examples import encode, model_inputs, split_log
from training.export import export
from training.export.parity import check_parity, flat_arrays
from training.features import fit_features
from training.fit import fit
from training.models import build
from training.trained import Trained

CONFIG = Path(__file__).with_suffix(".toml")
ROUNDS = 300
CANDIDATES = 500


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of KuaiRand's files")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="requests measured")
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as models, ThreadPoolExecutor(1) as executor:
        trained, folder = _train(arguments.data, Path(models))
        options = ModelOptions(EngineOptions(provider="cpu", threads=1))
        model = Model.load(folder, options, executor)
        for rows, apart in check_parity(folder, trained, model.manifest).items():
            print(f"parity at {rows:>4} rows: greatest disagreement {apart:.1e}")
        _measure(model, folder, trained, arguments.rounds)


def _train(data: Path, models: Path) -> tuple[Trained, Path]:
    config = load_config(CONFIG)
    torch.manual_seed(0)
    parts = split_log(load_log(config.dataset, data), config.split)
    parts = with_aggregates(parts, config.aggregates, config.features)
    encoder = fit_features(config.features, parts["train"])
    examples = {
        name: encode(encoder, parts[name].impressions, config.tasks) for name in ("train", "validate")
    }
    model = build(config.model, model_inputs(encoder.schema), [task.spec() for task in config.tasks])
    epochs = fit(
        model, examples["train"], examples["validate"], config.tasks, config.train, 0, lambda *_: None
    )
    print(f"validation loss of a constant's: {epochs[-1].relative}")
    trained = Trained(model, encoder, config, 0, {}, parts["test"].impressions)
    return trained, export(trained, models, "contract")


def _measure(model: Model, folder: Path, trained: Trained, rounds: int) -> None:
    flat = open_session(folder / "flat.onnx", EngineOptions(provider="cpu", threads=1))
    outputs = list(model.manifest.outputs())
    items = model.encoder.tables["item"].keys[0]
    random = np.random.default_rng(0)
    stages: dict[str, list[float]] = {
        name: [] for name in ("fetch", "encode", "inference", "fusion", "whole", "flat")
    }
    for at in random.integers(0, len(trained.sample), rounds).tolist():
        candidates = items[random.choice(len(items), CANDIDATES, replace=False)].tolist()
        context = {name: column.at(at) for name, column in trained.sample.context.items()}
        user = trained.sample.user_id[at]
        times = [perf_counter()]
        model.encoder.user_row(user)
        model.encoder.item_rows(candidates)
        times.append(perf_counter())
        encoded = model.encoder.request(user, {}, context, candidates, {})
        times.append(perf_counter())
        inference = model.engine.run([encoded])[0]
        times.append(perf_counter())
        formula = model.formula
        attributes = {
            name: model.encoder.attribute(name, encoded.item_row, {}) for name in formula.attributes
        }
        np.argsort(-formula.score(inference.scores, attributes), kind="stable")
        times.append(perf_counter())
        feeds = flat_arrays(model.manifest, model.encoder, encoded)
        prebuilt = perf_counter()
        flat.run(outputs, feeds)
        ended = perf_counter()
        fetch, whole_encode, infer, fuse = np.diff(times).tolist()
        # Encoding looks the rows up itself: what the fetch took alone is taken off it.
        parts = (fetch, whole_encode - fetch, infer, fuse, whole_encode + infer + fuse, ended - prebuilt)
        for name, seconds in zip(stages, parts, strict=True):
            stages[name].append(1e3 * seconds)
    _report({name: float(np.median(values)) for name, values in stages.items()}, rounds)


def _report(median: dict[str, float], rounds: int) -> None:
    print(f"\n{CANDIDATES} candidates, one thread, median of {rounds} requests")
    for name in ("fetch", "encode", "inference", "fusion"):
        print(f"  {name:<10} {median[name]:7.3f} ms {100 * median[name] / median['whole']:5.1f} %")
    print(f"  {'whole':<10} {median['whole']:7.3f} ms")
    print(f"  {'flat.onnx':<10} {median['flat']:7.3f} ms, on prebuilt tensors")
    share = (median["fetch"] + median["encode"]) / median["whole"]
    print(f"fetch + encode: {100 * share:.1f} % of the whole (at most 25)")
    print(f"flat / whole: {median['flat'] / median['whole']:.2f} (at least 1.5)")


if __name__ == "__main__":
    main()
