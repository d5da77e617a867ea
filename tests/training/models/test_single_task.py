"""A network a task against a loop over tasks, and what tasks do not share."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from tests.training.models.loops import deep, read, tower
from tests.training.models.test_models import INPUTS, features, model_of
from training.models.single_task import SingleTask, SingleTaskConfig

CONFIG = SingleTaskConfig(embedding=4, hidden=(6, 5))


@pytest.mark.parametrize("rows", [1, 5])
def test_single_task_equals_a_loop_over_tasks(rows: int) -> None:
    """y_k = f_k(x), each network computed alone."""
    model = model_of(CONFIG)
    network = cast(SingleTask, model.network)
    batch = features(INPUTS, rows)
    first = model.projections["networks"](read(model, batch)).relu().chunk(3, 1)
    logits = model(*batch)
    for task in range(3):
        expected = tower(network.towers, task, deep(network.networks, task, first[task]))
        torch.testing.assert_close(logits[task], expected)


@pytest.mark.parametrize("task", range(3))
def test_a_task_trains_its_own_network_and_the_embeddings(task: int) -> None:
    """Its loss moves no weight of another's network."""
    torch.manual_seed(0)
    model = model_of(CONFIG)
    network = cast(SingleTask, model.network)
    model(*features(INPUTS, 64))[task].sum().backward()
    assert model.user.table.weight.grad is not None
    assert model.user.table.weight.grad.any()
    first = network.projections["networks"].get_parameter("weight").grad
    assert first is not None
    moved = [first.unflatten(1, (3, 6)).abs().sum((0, 2))]
    for layer in (network.networks.deeper, network.towers):
        moved += [p.grad.abs().flatten(1).sum(1) for p in layer.parameters() if p.grad is not None]
    for gradient in moved:
        assert [bool(part) for part in gradient] == [other == task for other in range(3)]
