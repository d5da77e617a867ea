"""Architectures, a paper a file, and the one way in which all of them are computed.

A network names its first linear layers (`projections`) and goes on from their outputs (`head`). How these
outputs come about, all at once or side by side, is `MultiTaskModel`'s, and no network knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from service.bundle.manifest import TaskSpec
from training.layers import Projection, SideEmbedding, Slots, Towers, embedding_table
from training.models.esmm import ESMM, ESMMConfig, FunnelTowers, funnel
from training.models.mmoe import MMoE, MMoEConfig
from training.models.omoe import OMoE
from training.models.ple import PLE, PLEConfig
from training.models.shared_bottom import SharedBottom, SharedBottomConfig
from training.models.single_task import SingleTask, SingleTaskConfig

ModelConfig = Annotated[
    MMoEConfig | PLEConfig | ESMMConfig | SharedBottomConfig | SingleTaskConfig,
    Field(discriminator="name"),
]


class Network(Protocol):
    """What a paper's file gives: an nn.Module with these."""

    projections: nn.ModuleDict
    """of `Projection`, by name: every layer that reads the input"""

    @property
    def towers(self) -> Towers | FunnelTowers:
        """They give the logits."""

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the outputs of the projections."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model reads: the slots of its sides, and how many rows their embedding table has."""

    rows: int
    user: Slots
    item: Slots
    cross: Slots


class MultiTaskModel(nn.Module):
    """Embeddings of the three sides, first layers, head; computed whole or split.

    Whole: ``model(...)``, every array per row. Split: ``rank_side(user_side(...), item_side(...), ...)``,
    which is the same to float error and computes the user's part once and an item's ahead of time.

    Args:
        inputs: what the arrays hold.
        network: `MMoE` and the like, for the widths of these inputs.
        embedding: width of an embedding.
        dropout: of embeddings, in training.
    """

    def __init__(self, inputs: Inputs, network: Network, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        table = embedding_table(inputs.rows, embedding)
        self.user = SideEmbedding(inputs.user, table, dropout)
        self.item = SideEmbedding(inputs.item, table, dropout)
        self.cross = SideEmbedding(inputs.cross, table, dropout)
        self.network = network

    @property
    def projections(self) -> dict[str, Projection]:
        """The first linear layers; their names are those of the user state and of the state arrays."""
        return cast("dict[str, Projection]", dict(self.network.projections.items()))

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layers' outputs, in the order of the tasks."""
        return self.network.head(first)

    def start_at(self, logits: Tensor) -> None:
        """Begin at the tasks' mean logits ``[T, 1]``: a rare task need not find its rate first."""
        self.network.towers.start_at(logits)

    def ignore_constants(self, values: Sequence[Tensor]) -> None:
        """Hold the first layers' weights of numbers that never vary in training at zero.

        The flag of a value that is never missing gets no gradient; left as drawn, its weights would move the
        scores of every item that has no features. A number that is never 0 would be trained as a second bias.

        Args:
            values: the value arrays ``[B, V]`` of the sides.
        """
        start = 0
        for side, value in zip((self.user, self.item, self.cross), values, strict=True):
            constant = (value == value[:1]).all(0).nonzero().flatten()
            rows = start + side.width - value.shape[1] + constant
            for projection in self.projections.values():
                with torch.no_grad():
                    projection.weight[rows] = 0.0
                projection.weight.register_hook(partial(torch.index_fill, dim=0, index=rows, value=0.0))
            start += side.width

    def forward(
        self,
        user_index: Tensor,
        user_value: Tensor,
        item_index: Tensor,
        item_value: Tensor,
        cross_index: Tensor,
        cross_value: Tensor,
    ) -> Tensor:
        """Logits ``[T, B]``: an index ``[B, I]`` int32 and a value array ``[B, V]`` float32 a side."""
        sides = [
            self.user(user_index, user_value),
            self.item(item_index, item_value),
            self.cross(cross_index, cross_value),
        ]
        x = torch.cat(sides, 1)
        return self.head({name: projection(x) for name, projection in self.projections.items()})

    def user_side(self, index: Tensor, value: Tensor) -> dict[str, Tensor]:
        """What R users add to each first layer, ``[R, G]`` by projection."""
        x = self.user(index, value)
        return {name: projection.user(x) for name, projection in self.projections.items()}

    def item_side(self, index: Tensor, value: Tensor) -> dict[str, Tensor]:
        """What M items add to each first layer, ``[M, G]`` by projection: the state arrays."""
        x = self.item(index, value)
        return {name: projection.item(x) for name, projection in self.projections.items()}

    def rank_side(
        self,
        user: Mapping[str, Tensor],
        item: Mapping[str, Tensor],
        item_row: Tensor,
        cross_index: Tensor,
        cross_value: Tensor,
    ) -> Tensor:
        """Logits ``[T, N]`` of N candidates.

        Args:
            user: as `user_side` gives it, with R = 1 or R = N.
            item: as `item_side` gives it, whole; float16 is widened after the gather.
            item_row: ``[N]`` int32, each candidate's place in the state arrays.
            cross_index: ``[N, I]``.
            cross_value: ``[N, V]``.
        """
        x = self.cross(cross_index, cross_value)
        first = {}
        for name, projection in self.projections.items():
            # As an embedding's, the gather takes int32 rows as they are; index_select's would widen them.
            first[name] = embedding(item_row, item[name]).to(user[name].dtype) + user[name]
            if self.cross.width:
                first[name] = first[name] + projection.cross(x)
        return self.head(first)


def build(config: ModelConfig, inputs: Inputs, tasks: Sequence[TaskSpec]) -> MultiTaskModel:
    """A model with fresh weights; its logits stand in the order of `tasks`."""
    widths = [slots.width(config.embedding) for slots in (inputs.user, inputs.item, inputs.cross)]
    network: Network
    match config:
        case MMoEConfig(name="omoe"):
            network = OMoE(config, widths, len(tasks))
        case MMoEConfig():
            network = MMoE(config, widths, len(tasks))
        case PLEConfig():
            network = PLE(config, widths, len(tasks))
        case ESMMConfig():
            network = ESMM(config, widths, tasks)
        case SharedBottomConfig():
            network = SharedBottom(config, widths, len(tasks))
        case SingleTaskConfig():
            network = SingleTask(config, widths, len(tasks))
    return MultiTaskModel(inputs, network, config.embedding, config.embedding_dropout)


def without_loss(config: ModelConfig, tasks: Sequence[TaskSpec]) -> frozenset[str]:
    """Names of the tasks that this model learns through the losses of others.

    Raises:
        ValueError: the model is not for these tasks.
    """
    if isinstance(config, ESMMConfig):
        return frozenset(tasks[step.conditional].name for step in funnel(tasks))
    return frozenset()
