"""Shared-Bottom against its equation in loops."""

from __future__ import annotations

from typing import cast

import torch

from tests.training.models.test_mmoe import deep
from tests.training.models.test_models import INPUTS, features, model_of
from training.layers import BatchedLinear
from training.models.shared_bottom import SharedBottom, SharedBottomConfig


def test_shared_bottom_equals_its_layers_written_as_loops() -> None:
    """y_k = h_k(f(x)) with one f for all tasks."""
    model = model_of(SharedBottomConfig(embedding=4, bottom_hidden=(6, 5), tower_hidden=(4,)))
    network = cast(SharedBottom, model.network)
    batch = features(INPUTS, 5)
    sides = zip((model.user, model.item, model.cross), (batch[:2], batch[2:4], batch[4:]), strict=True)
    x = torch.cat([side(*arrays) for side, arrays in sides], 1)
    bottom = deep(network.bottom, 0, model.projections["bottom"](x).relu())
    hidden = [layer for layer in network.towers.hidden if isinstance(layer, BatchedLinear)]
    last = network.towers.last
    logits = model(*batch)
    for task in range(3):
        tower = deep(torch.nn.ModuleList(hidden), task, bottom)
        torch.testing.assert_close(logits[task], (tower @ last.weight[task] + last.bias[task])[:, 0])
