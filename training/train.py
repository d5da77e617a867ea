"""A whole run: log -> split -> encoder -> model -> metrics -> bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.bundle.manifest import Metrics
from service.bundle.store import locate, locked, read_manifest
from training.aggregates import with_aggregates
from training.config import TrainingConfig
from training.datasets import load_log
from training.evaluate import evaluate, scores_of
from training.examples import Examples, encode, model_inputs, split_log
from training.export import export
from training.features import fit_features
from training.fit import Epoch, best_of, fit, logits_of
from training.histories import with_histories
from training.impressions import Log
from training.models import MultiTaskModel, build
from training.trained import Trained


@dataclass(frozen=True, slots=True)
class Made:
    """A finished run.

    Attributes:
        folder: of the bundle.
        metrics: by part of the split (``validate``, ``test``) and task.
    """

    folder: Path
    metrics: dict[str, dict[str, Metrics]]


def train(
    config: TrainingConfig, data: Path | None, models: Path, version: str, seed: int, console: Console
) -> Made:
    """Train one version and write its bundle. Progress goes to the console.

    What can be known to be wrong before training is refused before it.

    Raises:
        ConfigError, FeatureError, FusionError: the config and the log do not fit.
        FloatingPointError: the loss is not finite.
        BundleError: the version exists or is no name, or its graphs disagree.
        OSError: a file cannot be read or written.
    """
    _check_folder(models, version)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(seed)
    tasks = config.tasks
    with console.status("reading the log"):
        parts = split_log(load_log(config.dataset, data), config.split)
        parts = with_aggregates(parts, config.aggregates, config.features)
        parts = with_histories(parts, config.histories)
    with console.status("fitting and encoding the features"), parts["train"].placing():
        encoder = fit_features(config.features, parts["train"])
        _check_formula(config.fusion, encoder, [task.name for task in tasks])
        examples = {name: encode(encoder, log.impressions, tasks) for name, log in parts.items()}
    model = build(config.model, model_inputs(encoder.schema), [task.spec() for task in tasks])
    _fit(model, examples, config, seed, console)
    with console.status("evaluating"):
        metrics = {
            name: _measured(model, encoder, examples[name], parts[name], config)
            for name in ("validate", "test")
        }
    with console.status("exporting and verifying"):
        trained = Trained(model, encoder, config, seed, metrics, parts["validate"].impressions)
        folder = export(trained, models, version)
    for what, why in read_manifest(folder).left_out.items():
        console.print(f"the bundle does without {what}: {why}")
    return Made(folder, metrics)


def _check_folder(models: Path, version: str) -> None:
    """Raise BundleError or OSError where the version could not be written at the end of the run."""
    target = locate(models, version)
    with locked(models):  # which makes the folder, or tells that it cannot be written to
        if target.exists():
            raise BundleError(
                f"{version}: this version exists, and versions never change; choose another name"
            )


def _check_formula(formula: FusionFormula, encoder: Encoder, tasks: Sequence[str]) -> None:
    """Raise FusionError for an attribute that items do not have, FeatureError for one that is no number."""
    items = encoder.tables["item"]
    formula.check(tasks, items.columns)
    for name in formula.attributes:
        encoder.attribute(name, np.arange(len(items) + 1, dtype=np.int32), {})


def _measured(
    model: MultiTaskModel, encoder: Encoder, logged: Examples, log: Log, config: TrainingConfig
) -> dict[str, Metrics]:
    """Metrics of one part, by task: of its impressions as they were, and as they would be served."""
    tasks = config.tasks
    served = encode(encoder, log.impressions, tasks, serving=True)
    as_logged, as_served = (scores_of(logits_of(model, examples), tasks) for examples in (logged, served))
    return evaluate(as_logged, as_served, log, tasks, config.fusion, encoder)


def _fit(
    model: MultiTaskModel,
    examples: Mapping[str, Examples],
    config: TrainingConfig,
    seed: int,
    console: Console,
) -> None:
    """Fit under a progress bar, and say of every epoch what it came to as it ends."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        steps = bar.add_task("", total=None, loss=0.0)

        def stepped(done: int, total: int, loss: float) -> None:
            bar.update(steps, completed=done, total=total, loss=loss)

        def finished(epoch: Epoch) -> None:
            console.print(f"epoch {epoch.number}: validation {epoch.combined:.4f} of a constant's loss")

        train, validate = examples["train"], examples["validate"]
        epochs = fit(model, train, validate, config.tasks, config.train, seed, stepped, finished)
    console.print(f"kept the weights of epoch {best_of(epochs).number}")
