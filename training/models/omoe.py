"""One-gate mixture-of-experts: a baseline of Ma et al., "Modeling Task Relationships in Multi-task Learning
with Multi-gate Mixture-of-Experts", KDD 2018 (eq. 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from training.layers import ExpertStack, Gates, Projection, Towers, mix
from training.models.mmoe import MMoEConfig


class OMoE(nn.Module):
    """y_k = h_k(Σ_i g(x)_i f_i(x)) (eq. 5): as `MMoE`, with one gate g and so one mixture for all tasks.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: how many.
    """

    def __init__(self, config: MMoEConfig, widths: Sequence[int], tasks: int) -> None:
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
