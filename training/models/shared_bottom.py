"""Shared-Bottom: Caruana, "Multitask Learning", 1997; a baseline of Ma et al., KDD 2018 (eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from training.layers import ExpertStack, Projection, Towers


class SharedBottomConfig(BaseModel):
    """Sizes of a Shared-Bottom network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["shared_bottom"] = "shared_bottom"
    embedding: PositiveInt = 16
    bottom_hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128)
    tower_hidden: tuple[PositiveInt, ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SharedBottom(nn.Module):
    """y_k = h_k(f(x)), where the bottom f is every task's (Ma et al., eq. 1): one expert and no gate.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: how many.
    """

    def __init__(self, config: SharedBottomConfig, widths: Sequence[int], tasks: int) -> None:
        super().__init__()
        hidden = config.bottom_hidden
        self.projections = nn.ModuleDict({"bottom": Projection(widths, hidden[0])})
        self.bottom = ExpertStack(1, hidden, config.dropout)
        self.towers = Towers(tasks, hidden[-1], config.tower_hidden, config.dropout)

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layer ``bottom [B, H]``."""
        logits: Tensor = self.towers(self.bottom(first["bottom"]))
        return logits
