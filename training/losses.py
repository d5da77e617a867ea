"""The multi-task loss: from logits, each task over the rows that have its label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

Kind = Literal["binary", "regression"]


def masked_mean(values: Tensor, present: Tensor) -> Tensor:
    """Mean of each row of `values [T, B]` where `present [T, B]`, ``[T]``; 0 where nothing is present.

    Ma et al., RecSys 2020 (PLE), eq. 9: a task's loss is the mean over the samples in that task's space.
    """
    return (values * present).sum(1) / present.sum(1).clamp(min=1)


class MultiTaskLoss(nn.Module):
    """Each task's loss and their weighted sum, Σ_t w_t·L_t.

    A binary task has the cross-entropy of its logit. A regression task reads its logit as the prediction of
    the transformed label, with Huber's loss of δ = 1: half the squared error up to 1, and |error| − 1/2
    beyond, so that one absurd watch time does not own the step that all tasks share.

    A NaN label is masked: its row adds nothing to that task's loss or gradient.

    Args:
        kinds: of the tasks, in the order of the logits.
        weights: w_t; 1 each by default.
    """

    binary: Tensor
    weights: Tensor

    def __init__(self, kinds: Sequence[Kind], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(kinds) if weights is None else weights
        if len(weights) != len(kinds):
            raise ValueError(f"weights: {len(weights)} for {len(kinds)} tasks; give one for each")
        # Settings, not state: no checkpoint carries them.
        binary = torch.tensor([kind == "binary" for kind in kinds]).unsqueeze(1)
        self.register_buffer("binary", binary, persistent=False)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, a scalar, and the tasks' losses ``[T]``, from logits and transformed labels ``[T, B]``."""
        present = ~labels.isnan()
        # NaN would survive a product with 0 in the gradient: the label goes before the loss is taken.
        labels = labels.where(present, 0.0)
        entropy = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        errors = huber_loss(logits, labels, reduction="none")
        losses = masked_mean(torch.where(self.binary, entropy, errors), present)
        return self.weights @ losses, losses
