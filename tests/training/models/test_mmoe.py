"""MMoE against the paper's equations in loops, and what it learns."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.training.models.loops import deep, read, tower
from tests.training.models.test_models import INPUTS, TASKS, features, model_of
from training.layers import Slots
from training.losses import MultiTaskLoss
from training.metrics import correlation, log_loss
from training.models import Inputs, MultiTaskModel, build
from training.models.mmoe import MMoE, MMoEConfig

CONFIG = MMoEConfig(embedding=4, experts=3, expert_hidden=(6, 5), tower_hidden=(4,))


def test_mmoe_equals_the_paper_written_as_loops() -> None:
    """y_k = h_k(Σ_i softmax(W_gk x)_i f_i(x)), a loop over tasks and one over experts."""
    model = model_of(CONFIG)
    network = cast(MMoE, model.network)
    batch = features(INPUTS, 5)
    x = read(model, batch)
    first = model.projections["experts"](x)
    experts = [deep(network.experts, i, first[:, 6 * i : 6 * (i + 1)].relu()) for i in range(3)]
    gates = model.projections["gates"](x)
    logits = model(*batch)
    for task in range(3):
        gate = gates[:, 3 * task : 3 * (task + 1)].softmax(1)
        mixed = torch.stack([gate[:, i, None] * experts[i] for i in range(3)]).sum(0)
        torch.testing.assert_close(logits[task], tower(network.towers, task, mixed))


def test_gates_share_a_row_out_among_the_experts() -> None:
    """Every gate of every row is a distribution over the experts."""
    model = model_of(CONFIG)
    gates = cast(MMoE, model.network).gates({"gates": torch.randn(7, 9)})
    assert gates.shape == (7, 3, 3)
    torch.testing.assert_close(gates.sum(2), torch.ones(7, 3))
    assert (gates > 0).all()


def world(rows: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor, dict[str, NDArray[np.float64]]]:
    """Impressions, their labels and the truth.

    A user of group a clicks on an item of group b with p = 0.9 where a + b is even, else 0.1, which no sum of
    effects can say. A like, logged after a click only, follows a number v of the pair; watch time a and v.
    """
    random = np.random.default_rng(seed)
    a, b, v = random.integers(0, 6, rows), random.integers(0, 6, rows), random.normal(size=rows)
    truth = {
        "click": np.where((a + b) % 2 == 0, 0.9, 0.1),
        "like": 1 / (1 + np.exp(-2 * v)),
        "watch": a / 3 + v,
    }
    click = random.random(rows) < truth["click"]
    like = np.where(click, random.random(rows) < truth["like"], np.nan)
    watch = truth["watch"] + random.normal(size=rows) * 0.1
    labels = torch.tensor(np.stack([click, like, watch]), dtype=torch.float32)
    empty = torch.zeros(rows, 0)
    index = [torch.tensor(column[:, None], dtype=torch.int32) for column in (a, b)]
    value = torch.tensor(v[:, None], dtype=torch.float32)
    return (index[0], empty, index[1], empty, empty.int(), value), labels, truth


def train(model: MultiTaskModel, steps: int) -> None:
    """Adam on fresh impressions."""
    loss = MultiTaskLoss(("binary", "binary", "regression"))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        batch, labels, _ = world(512, seed=step)
        optimizer.zero_grad()
        loss(model(*batch), labels)[0].backward()
        optimizer.step()


def test_mmoe_learns_three_unlike_tasks() -> None:
    """On unseen impressions its probabilities are within 3% of the log loss of the true ones."""
    torch.manual_seed(1)
    inputs = Inputs(12, Slots(singles=(0,)), Slots(singles=(6,)), Slots(values=1))
    config = MMoEConfig(embedding=8, experts=4, expert_hidden=(32, 16), tower_hidden=(16,))
    model = build(config, inputs, TASKS)
    train(model, steps=300)
    batch, labels, truth = world(20_000, seed=10_000)
    with torch.no_grad():
        click, like, watch = model.eval()(*batch)
    for task, logit, label in (("click", click, labels[0]), ("like", like, labels[1])):
        reached, best = log_loss(logit.sigmoid(), label), log_loss(truth[task], label)
        assert reached == pytest.approx(best, rel=0.03), task
    agreement = correlation(watch, truth["watch"])
    assert agreement is not None
    assert agreement > 0.99
