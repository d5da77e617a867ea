"""Networks written as loops, a task and an expert at a time, from the weights of the batched ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.layers import BatchedLinear, Towers
from training.models import MultiTaskModel


def read(model: MultiTaskModel, batch: Sequence[Tensor]) -> Tensor:
    """The input x of the first layers, all sides of every row: ``[B, in]``."""
    sides = zip((model.user, model.item, model.cross), (batch[:2], batch[2:4], batch[4:]), strict=True)
    return torch.cat([side(*arrays) for side, arrays in sides], 1)


def deep(module: torch.nn.Module, of: int, x: Tensor) -> Tensor:
    """Layers number `of` of a stack of batched layers, a ReLU after each."""
    for layer in module.modules():
        if isinstance(layer, BatchedLinear):
            x = (x @ layer.weight[of] + layer.bias[of]).relu()
    return x


def tower(towers: Towers, of: int, x: Tensor) -> Tensor:
    """Logits ``[B]`` of tower number `of`."""
    return (deep(towers.hidden, of, x) @ towers.last.weight[of] + towers.last.bias[of])[:, 0]
