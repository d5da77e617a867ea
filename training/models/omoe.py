"""One-gate mixture-of-experts: a baseline of Ma et al., "Modeling Task Relationships in Multi-task Learning
with Multi-gate Mixture-of-Experts", KDD 2018 (eq. 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from training.layers import ExpertStack, Gates, Projection, Towers, mix


class OMoEConfig(BaseModel):
    """Sizes of an OMoE; the last of `expert_hidden` is the width that the gate mixes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["omoe"] = "omoe"
    embedding: PositiveInt = 16
    experts: PositiveInt = 8
    expert_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128)
    gate_hidden: tuple[PositiveInt, ...] = ()
    gate_temperature: PositiveFloat = 1.0
    tower_hidden: tuple[PositiveInt, ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class OMoE(nn.Module):
    """y_k = h_k(Σ_i g(x)_i f_i(x)) (eq. 5): as `MMoE`, with one gate g and so one mixture for all tasks.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: how many.
    """

    def __init__(self, config: OMoEConfig, widths: Sequence[int], tasks: int) -> None:
        super().__init__()
        hidden = config.expert_hidden
        self.gate = Gates(1, config.experts, config.gate_hidden, config.gate_temperature)
        self.projections = nn.ModuleDict(
            {
                "experts": Projection(widths, config.experts * hidden[0]),
                "gate": Projection(widths, self.gate.units, gain=self.gate.gain),
            }
        )
        self.experts = ExpertStack(config.experts, hidden, config.dropout)
        self.towers = Towers(tasks, hidden[-1], config.tower_hidden, config.dropout)

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layers ``experts [B, E·H]`` and ``gate [B, E]``."""
        logits: Tensor = self.towers(mix(self.gate(first["gate"]), self.experts(first["experts"])))
        return logits
