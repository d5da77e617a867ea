"""Losses that are no numbers, and tasks without labels."""

from __future__ import annotations

import math

import pytest
import torch

from tests.training import worlds
from tests.training.worlds import QUICK, Prepared, prepare
from training.config import ConfigError
from training.examples import Examples
from training.fit import fit


@pytest.fixture(scope="module")
def quick() -> Prepared:
    """A log that a small model learns in a moment."""
    return prepare(worlds.log(800), **QUICK)


@pytest.mark.parametrize("value", [math.inf, 1e38], ids=["infinite", "beyond float32"])
def test_a_loss_that_is_not_finite_stops_the_run(quick: Prepared, value: float) -> None:
    """With a word on what to do, and no weights of NaN left behind."""
    train = quick.examples["train"]
    labels = train.labels.clone()
    labels[0, :] = value
    model = quick.model()
    with pytest.raises(FloatingPointError, match=r"the loss is not finite; lower train\.learning_rate"):
        fit(
            model, Examples(train.arrays, labels), quick.examples["validate"], quick.config.tasks,
            quick.config.train, 0, lambda *_: None,
        )  # fmt: skip
    assert all(parameter.isfinite().all() for parameter in model.network.parameters())  # type: ignore[attr-defined]


def test_a_validation_loss_that_is_not_finite_stops_the_run(quick: Prepared) -> None:
    """No epoch could be called the best one."""
    validate = quick.examples["validate"]
    labels = torch.full_like(validate.labels, math.inf)
    with pytest.raises(FloatingPointError, match="validation loss"):
        fit(
            quick.model(), quick.examples["train"], Examples(validate.arrays, labels), quick.config.tasks,
            quick.config.train, 0, lambda *_: None,
        )  # fmt: skip


def test_a_task_without_labels_is_refused(quick: Prepared) -> None:
    """A mask that no training row passes leaves nothing to learn, and the score would be made up."""
    train = quick.examples["train"]
    labels = train.labels.clone()
    labels[1] = math.nan
    with pytest.raises(
        ConfigError, match=r"tasks\.like: no training impression has a label 'like' where 'click'"
    ):
        fit(
            quick.model(), Examples(train.arrays, labels), quick.examples["validate"], quick.config.tasks,
            quick.config.train, 0, lambda *_: None,
        )  # fmt: skip


def test_a_task_without_validation_labels_is_no_obstacle(quick: Prepared) -> None:
    """It neither helps nor hinders the choice of an epoch."""
    validate = quick.examples["validate"]
    labels = validate.labels.clone()
    labels[1] = math.nan
    epochs = fit(
        quick.model(), quick.examples["train"], Examples(validate.arrays, labels), quick.config.tasks,
        quick.config.train, 0, lambda *_: None,
    )  # fmt: skip
    assert all(epoch.relative["like"] == 0 and math.isfinite(epoch.combined) for epoch in epochs)
