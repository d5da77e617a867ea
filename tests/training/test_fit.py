"""The training loop: what it learns, what it keeps, when it stops, and what never reaches a weight."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.bundle.vocabulary import Vocabulary
from tests.training import worlds
from tests.training.worlds import QUICK, Prepared, prepare
from training import metrics
from training.evaluate import evaluate, scores_of
from training.examples import encode
from training.fit import Epoch, best_of, fit, learning_rate_factor, logits_of
from training.impressions import Log

NETWORKS: list[dict[str, Any]] = [
    {"name": "mmoe", "embedding": 4, "experts": 2, "expert_hidden": [16], "tower_hidden": []},
    {"name": "shared_bottom", "embedding": 4, "bottom_hidden": [16], "tower_hidden": []},
]
BY_NAME = [network["name"] for network in NETWORKS]


@pytest.fixture(scope="module")
def quick() -> Prepared:
    """A log that a small model learns in a moment."""
    return prepare(worlds.log(4000), **QUICK)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Are all weights equal, to the last bit?"""
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def combined_by_definition(prepared: Prepared, logits: Tensor) -> float:
    """Weighted mean over the (binary) tasks of validation loss over the loss of the training part's rate."""
    probabilities = logits.sigmoid().double().numpy()
    train, validate = (prepared.examples[name].labels.numpy() for name in ("train", "validate"))
    total = 0.0
    for at, task in enumerate(prepared.config.tasks):
        rate = np.full(len(validate[at]), np.nanmean(train[at]))
        loss = metrics.log_loss(probabilities[at], validate[at])
        constant = metrics.log_loss(rate, validate[at])
        assert loss is not None
        assert constant is not None
        total += task.weight * loss / constant
    return total / sum(task.weight for task in prepared.config.tasks)


@pytest.mark.parametrize("network", NETWORKS, ids=BY_NAME)
def test_it_learns_what_there_is_to_learn(network: dict[str, Any]) -> None:
    """On days it never saw, clicks are predicted nearly as well as by their true probabilities."""
    prepared = prepare(worlds.log(4000), **{**QUICK, "model": network})
    model = prepared.model()
    prepared.fit(model)
    log, tasks = prepared.parts["test"], prepared.config.tasks
    scores = scores_of(logits_of(model, prepared.examples["test"]), tasks)
    found = evaluate(scores, scores, log, tasks, prepared.config.fusion, prepared.encoder)["click"]
    clicks = log.impressions.labels["click"]
    rate = prepared.parts["train"].impressions.labels["click"].mean()
    constant = metrics.log_loss(np.full(len(log), rate), clicks)
    assert found["log_loss"] is not None
    assert found["true_log_loss"] is not None
    assert constant is not None
    assert found["log_loss"] < found["true_log_loss"] + 0.15 * (constant - found["true_log_loss"])


def test_the_same_seed_gives_the_same_run(quick: Prepared) -> None:
    """Epochs and weights are equal to the last bit; those of another seed are not."""
    models = [quick.model(seed) for seed in (3, 3, 4)]
    epochs = [quick.fit(model, seed) for model, seed in zip(models, (3, 3, 4), strict=True)]
    first, again, other = map(weights_of, models)
    assert epochs[0] == epochs[1] != epochs[2]
    assert same(first, again)
    assert not same(first, other)


def test_dropout_is_of_the_seed_too() -> None:
    """The same seed drops the same units."""
    network = {**NETWORKS[0], "dropout": 0.2, "embedding_dropout": 0.1}
    prepared = prepare(
        worlds.log(800), **{**QUICK, "model": network, "train": {"epochs": 1, "batch_size": 64}}
    )
    models = [prepared.model(5), prepared.model(5)]
    for model in models:
        torch.manual_seed(5)
        prepared.fit(model, 5)
    assert same(*map(weights_of, models))


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    """Not those of the last: overfitted on purpose, the model left behind is the one that validated best."""
    train = {"epochs": 6, "patience": 6, "batch_size": 32, "learning_rate": 0.05}
    prepared = prepare(worlds.log(700), **{**QUICK, "train": train})
    model = prepared.model()
    epochs = prepared.fit(model)
    assert len(epochs) == 6
    assert best_of(epochs) is not epochs[-1]
    kept = combined_by_definition(prepared, logits_of(model, prepared.examples["validate"]))
    assert kept == pytest.approx(min(epoch.combined for epoch in epochs), rel=1e-5)
    assert not model.training


def test_it_stops_when_it_gets_no_better() -> None:
    """After `patience` epochs that are not better than the best."""
    train = {"epochs": 30, "patience": 2, "batch_size": 32, "learning_rate": 0.05}
    prepared = prepare(worlds.log(700), **{**QUICK, "train": train})
    epochs = prepared.fit(prepared.model())
    assert len(epochs) < 30
    assert len(epochs) - best_of(epochs).number == 2
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))


def test_the_best_epoch_is_the_first_of_equals() -> None:
    """A tie is no progress."""
    epochs = [Epoch(number, 1.0, combined) for number, combined in enumerate((0.9, 0.7, 0.8, 0.7), 1)]
    assert best_of(epochs).number == 2


def test_a_task_starts_at_its_rate() -> None:
    """Before the first step a model predicts what a constant would; it is what validation is measured by."""
    train = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0, "embedding_decay": 0}
    prepared = prepare(worlds.log(800), **{**QUICK, "train": train})
    (epoch,) = prepared.fit(prepared.model())
    assert epoch.combined == pytest.approx(1.0, abs=0.05)
    assert epoch.relative == pytest.approx({"click": 1.0, "like": 1.0}, abs=0.05)


def test_a_masked_row_changes_nothing(quick: Prepared) -> None:
    """Whatever the log says of likes where nobody clicked, the weights are the same to the last bit."""
    labels = dict(quick.parts["train"].impressions.labels)
    assert (labels["click"] == 0).any()
    labels["like"] = np.where(labels["click"] == 0, np.float32(1.0), labels["like"])
    impressions = replace(quick.parts["train"].impressions, labels=labels)
    changed = encode(quick.encoder, impressions, quick.config.tasks)
    models = [quick.model(), quick.model()]
    quick.fit(models[0])
    fit(
        models[1],
        changed,
        quick.examples["validate"],
        quick.config.tasks,
        quick.config.train,
        0,
        lambda *_: None,
    )
    assert same(*map(weights_of, models))


def test_what_only_masked_rows_hold_gets_no_gradient() -> None:
    """Where likes alone are learned, a video that nobody clicked keeps the embedding it was born with."""
    log = worlds.log(800)
    clicked = np.where(log.impressions.item_id == "i7", np.float32(0), log.impressions.labels["click"])
    labels = {**log.impressions.labels, "click": clicked}
    sections: dict[str, Any] = {
        "tasks": [{"name": "like", "mask": "click"}],
        "train": {"epochs": 1, "batch_size": 64, "embedding_decay": 0},
        "fusion": {"groups": [{"factors": [{"task": "like"}]}]},
    }
    log = Log(replace(log.impressions, labels=labels), log.tables)
    prepared = prepare(log, **{**QUICK, **sections})
    model = prepared.model()
    before = weights_of(model)["item.table.weight"]
    prepared.fit(model)
    moved = (weights_of(model)["item.table.weight"] != before).any(1).numpy()
    train = prepared.parts["train"].impressions
    videos = np.unique(train.item_id[train.labels["click"] == 1])
    video, start = prepared.encoder.vocabularies["video"], model.item.slots.singles[0]
    assert isinstance(video, Vocabulary)
    assert len(videos) > 40
    assert moved[start + video.rows(videos)].all()
    assert not moved[start + video.rows(["i7"])].any()


def test_progress_counts_every_step(quick: Prepared) -> None:
    """One call a step, from 1 up to the most there can be."""
    told: list[tuple[int, int, float]] = []
    train, validate = quick.examples["train"], quick.examples["validate"]
    config = quick.config.train.model_copy(update={"patience": 99})
    fit(quick.model(), train, validate, quick.config.tasks, config, 0, lambda *step: told.append(step))
    steps = config.epochs * math.ceil(len(train) / config.batch_size)
    assert [step[:2] for step in told] == [(done, steps) for done in range(1, steps + 1)]
    assert all(math.isfinite(loss) for _, _, loss in told)


def test_every_epoch_is_told_as_it_ends(quick: Prepared) -> None:
    """In order, before the next one begins."""
    told: list[int | Epoch] = []
    train, validate = quick.examples["train"], quick.examples["validate"]
    epochs = fit(
        quick.model(), train, validate, quick.config.tasks, quick.config.train, 0,
        lambda done, *_: told.append(done), told.append,
    )  # fmt: skip
    assert [entry for entry in told if isinstance(entry, Epoch)] == epochs
    steps = math.ceil(len(train) / quick.config.train.batch_size)
    assert told[:steps] == list(range(1, steps + 1))
    assert told[steps] is epochs[0]


def test_the_learning_rate_rises_and_then_falls() -> None:
    """Up over the first twentieth of the steps, down to a tenth at the end, however few there are."""
    factors = [learning_rate_factor(step, 200) for step in range(200)]
    assert factors[9] == 1.0 == max(factors)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[0] == pytest.approx(0.1)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)
    assert learning_rate_factor(0, 1) == learning_rate_factor(1, 2) == 1.0


def test_decay_spares_the_biases() -> None:
    """One step with no gradient before the last layer: weights and embeddings shrink, biases stay."""
    decay = {"weight_decay": 0.5, "embedding_decay": 0.2}
    train = {"epochs": 1, "batch_size": 5000, "learning_rate": 0.5, **decay}
    prepared = prepare(worlds.log(400), **{**QUICK, "train": train})
    model = prepared.model()
    last = "network.towers.last"
    torch.nn.init.zeros_(dict(model.named_parameters())[f"{last}.weight"])
    for projection in model.projections.values():
        torch.nn.init.constant_(projection.bias, 0.5)
    before = weights_of(model)
    prepared.fit(model)
    after = weights_of(model)
    for name in before.keys() - {f"{last}.weight", f"{last}.bias"}:
        kept = 1.0 if name.endswith("bias") else 0.9 if "table" in name else 0.75
        torch.testing.assert_close(after[name], kept * before[name])
