"""A network a task: the baseline that multi-task papers measure themselves against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from training.layers import ExpertStack, Projection, Towers


class SingleTaskConfig(BaseModel):
    """Sizes of a network a task; `hidden` are its layers before the logit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["single_task"] = "single_task"
    embedding: PositiveInt = 16
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128, 64)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SingleTask(nn.Module):
    """y_k = f_k(x): tasks share the embeddings and no more. With one task in the config they share nothing.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: how many.
    """

    def __init__(self, config: SingleTaskConfig, widths: Sequence[int], tasks: int) -> None:
        super().__init__()
        self.projections = nn.ModuleDict({"networks": Projection(widths, tasks * config.hidden[0])})
        self.networks = ExpertStack(tasks, config.hidden, config.dropout)
        self.towers = Towers(tasks, config.hidden[-1], ())

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layer ``networks [B, T·H]``."""
        logits: Tensor = self.towers(self.networks(first["networks"]))
        return logits
