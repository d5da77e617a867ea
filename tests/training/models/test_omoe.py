"""OMoE against the paper's equation in loops."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from tests.training.models.loops import deep, read, tower
from tests.training.models.test_models import INPUTS, features, model_of
from training.models.mmoe import MMoEConfig
from training.models.omoe import OMoE


@pytest.mark.parametrize("rows", [1, 5])
def test_omoe_equals_the_paper_written_as_loops(rows: int) -> None:
    """y_k = h_k(Σ_i softmax(W_g x)_i f_i(x)): every task reads the one mixture."""
    model = model_of(MMoEConfig(name="omoe", embedding=4, experts=3, expert_hidden=(6, 5), tower_hidden=(4,)))
    network = cast(OMoE, model.network)
    batch = features(INPUTS, rows)
    x = read(model, batch)
    gate = model.projections["gate"](x).softmax(1)
    first = model.projections["experts"](x).relu().chunk(3, 1)
    mixture = sum(gate[:, i, None] * deep(network.experts, i, first[i]) for i in range(3))
    assert isinstance(mixture, torch.Tensor)
    logits = model(*batch)
    for task in range(3):
        torch.testing.assert_close(logits[task], tower(network.towers, task, mixture))
