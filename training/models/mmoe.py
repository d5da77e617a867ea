"""Multi-gate mixture-of-experts: Ma et al., "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts", KDD 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from training.layers import ExpertStack, Gates, Projection, Towers, mix


class MMoEConfig(BaseModel):
    """Sizes of an MMoE, or of an OMoE, its baseline; the last of `expert_hidden` is the width that gates mix.

    With experts of each task's own beside the shared ones, or in levels, an MMoE is `PLEConfig`'s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["mmoe", "omoe"] = "mmoe"
    embedding: PositiveInt = 16
    experts: PositiveInt = 8
    expert_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128)
    gate_hidden: tuple[PositiveInt, ...] = ()
    gate_temperature: PositiveFloat = 1.0
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
        hidden = config.expert_hidden
        self.gate = Gates(tasks, config.experts, config.gate_hidden, config.gate_temperature)
        self.projections = nn.ModuleDict(
            {
                "experts": Projection(widths, config.experts * hidden[0]),
                "gates": Projection(widths, tasks * self.gate.units, gain=self.gate.gain),
            }
        )
        self.experts = ExpertStack(config.experts, hidden, config.dropout)
        self.towers = Towers(tasks, hidden[-1], config.tower_hidden, config.dropout)

    def gates(self, first: Mapping[str, Tensor]) -> Tensor:
        """g^k(x): how much of each expert a task takes, ``[B, T, E]``, adding up to 1 over the experts."""
        shares: Tensor = self.gate(first["gates"])
        return shares

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layers ``experts [B, E·H]`` and ``gates [B, T·E]``."""
        logits: Tensor = self.towers(mix(self.gates(first), self.experts(first["experts"])))
        return logits
