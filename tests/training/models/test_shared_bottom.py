"""Shared-Bottom against its equation in loops."""

from __future__ import annotations

from typing import cast

import torch

from tests.training.models.loops import deep, read, tower
from tests.training.models.test_models import INPUTS, features, model_of
from training.models.shared_bottom import SharedBottom, SharedBottomConfig


def test_shared_bottom_equals_its_layers_written_as_loops() -> None:
    """y_k = h_k(f(x)) with one f for all tasks."""
    model = model_of(SharedBottomConfig(embedding=4, bottom_hidden=(6, 5), tower_hidden=(4,)))
    network = cast(SharedBottom, model.network)
    batch = features(INPUTS, 5)
    bottom = deep(network.bottom, 0, model.projections["bottom"](read(model, batch)).relu())
    logits = model(*batch)
    for task in range(3):
        torch.testing.assert_close(logits[task], tower(network.towers, task, bottom))
