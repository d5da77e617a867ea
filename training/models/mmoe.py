"""Multi-gate mixture-of-experts: Ma et al., "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts", KDD 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from training.layers import ExpertStack, Projection, Towers, mix


class MMoEConfig(BaseModel):
    """Sizes of an MMoE; the last of `expert_hidden` is the width that the gates mix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["mmoe"] = "mmoe"
    embedding: PositiveInt = 16
    experts: PositiveInt = 8
    expert_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128)
    tower_hidden: tuple[PositiveInt, ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class MMoE(nn.Module):
    """y_k = h_k(f^k(x)), where f^k(x) = Σ_i g^k(x)_i f_i(x) (eq. 6) and g^k(x) = softmax(W_gk x) (eq. 7).

    f_i are the experts, g^k the gate and h_k the tower of task k. The gates have a bias, which the paper's
    do not: it is the mixture of a task before it has seen a feature.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: how many.
    """

    def __init__(self, config: MMoEConfig, widths: Sequence[int], tasks: int) -> None:
        super().__init__()
        self.shape = (tasks, config.experts)
        hidden = config.expert_hidden
        self.projections = nn.ModuleDict(
            {
                "experts": Projection(widths, config.experts * hidden[0]),
                "gates": Projection(widths, tasks * config.experts, gain=1.0),
            }
        )
        self.experts = ExpertStack(config.experts, hidden, config.dropout)
        self.towers = Towers(tasks, hidden[-1], config.tower_hidden, config.dropout)

    def gates(self, first: Mapping[str, Tensor]) -> Tensor:
        """g^k(x): how much of each expert a task takes, ``[B, T, E]``, adding up to 1 over the experts."""
        return torch.unflatten(first["gates"], 1, self.shape).softmax(2)

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layers ``experts [B, E·H]`` and ``gates [B, T·E]``."""
        logits: Tensor = self.towers(mix(self.gates(first), self.experts(first["experts"])))
        return logits
