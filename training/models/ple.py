"""Progressive layered extraction: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task
Learning (MTL) Model for Personalized Recommendations", RecSys 2020.

E = T·K + S experts a level: the K of the first task, of the second, …, and last the S that all tasks share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from training.layers import BatchedLinear, ExpertStack, Gates, Projection, Towers, mix, relu_layers


class PLEConfig(BaseModel):
    """Sizes of a PLE.

    Attributes:
        specific_experts: K, of each task a level. With none it is a stacked MMoE.
        shared_experts: S, a level.
        levels: units of the layers of an expert, a level each. One level is the paper's CGC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["ple"] = "ple"
    embedding: PositiveInt = 16
    specific_experts: NonNegativeInt = 1
    shared_experts: PositiveInt = 2
    levels: Annotated[
        tuple[Annotated[tuple[PositiveInt, ...], Field(min_length=1)], ...], Field(min_length=1)
    ] = ((256,), (128,))
    gate_hidden: tuple[PositiveInt, ...] = ()
    gate_temperature: PositiveFloat = 1.0
    tower_hidden: tuple[PositiveInt, ...] = (64,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def experts(self, tasks: int) -> int:
        """E, all experts of a level."""
        return tasks * self.specific_experts + self.shared_experts


class Extraction(nn.Module):
    """The gates of a level after their first linear layer: ``experts [E, B, H] -> streams [T + 1, B, H]``.

    A task's gate sees its own K experts and the S shared ones (eq. 2 to 4), the shared gate all of the level;
    its stream is the last. The last level has no shared gate, and T streams.
    """

    own: Tensor

    def __init__(self, config: PLEConfig, tasks: int, last: bool) -> None:
        super().__init__()
        self.seen = (config.specific_experts, config.shared_experts)
        style = (config.gate_hidden, config.gate_temperature)
        self.tasks = Gates(tasks, sum(self.seen), *style)
        self.shared = None if last else Gates(1, config.experts(tasks), *style)
        self.register_buffer("own", torch.eye(tasks).unsqueeze(2), persistent=False)

    def gates(self, tasks: Tensor, shared: Tensor | None = None) -> Tensor:
        """What a stream takes of each expert, ``[B, T + 1, E]``: 0 of those that its gate does not see.

        Args:
            tasks: first layer of the tasks' gates, ``[B, T·units]``.
            shared: first layer of the shared gate, ``[B, units]``.
        """
        own, common = self.tasks(tasks).split(self.seen, 2)
        # [B, T, 1, K] times the identity [T, T, 1]: each task's K among the experts of all tasks.
        gates = torch.cat([(own.unsqueeze(2) * self.own).flatten(2), common], 2)
        return gates if self.shared is None else torch.cat([gates, self.shared(shared)], 1)

    def forward(self, experts: Tensor, tasks: Tensor, shared: Tensor | None = None) -> Tensor:
        """The streams that leave the level."""
        return mix(self.gates(tasks, shared), experts)


class Level(nn.Module):
    """A level after the first: ``streams [T + 1, B, H] -> [T + 1, B, H']``, at the last level ``[T, B, H']``.

    A task's experts and gate read the task's stream (eq. 6), the shared ones the shared stream.
    """

    reads: Tensor

    def __init__(self, config: PLEConfig, tasks: int, inputs: int, hidden: Sequence[int], last: bool) -> None:
        super().__init__()
        self.experts = relu_layers(config.experts(tasks), (inputs, *hidden), config.dropout)
        self.extraction = Extraction(config, tasks, last)
        gate, shared = self.extraction.tasks, self.extraction.shared
        self.task_gates = BatchedLinear(tasks, inputs, gate.units, gate.gain)
        self.shared_gate = None if shared is None else BatchedLinear(1, inputs, shared.units, shared.gain)
        counts = torch.tensor([config.specific_experts] * tasks + [config.shared_experts])
        self.register_buffer("reads", torch.arange(tasks + 1).repeat_interleave(counts), persistent=False)

    def forward(self, streams: Tensor) -> Tensor:
        """The streams of the next level, or of the towers."""
        gates = [self.task_gates(streams[:-1])]
        if self.shared_gate is not None:
            gates.append(self.shared_gate(streams[-1:]))
        # A copy of its stream for every expert, then one matmul: a head of two levels (500 rows, 8 experts,
        # 6 tasks) takes 5.4 ms, against 6.2 where a task's and the shared experts are matmuls of their own.
        experts = self.experts(streams.index_select(0, self.reads))
        y: Tensor = self.extraction(experts, *(gate.transpose(0, 1).flatten(1) for gate in gates))
        return y


class PLE(nn.Module):
    """y_k = t_k(g^k), where g^k is the stream of task k that leaves the last level (eq. 7) and t_k its tower.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: how many.
    """

    def __init__(self, config: PLEConfig, widths: Sequence[int], tasks: int) -> None:
        super().__init__()
        first, experts, levels = config.levels[0], config.experts(tasks), len(config.levels)
        self.experts = ExpertStack(experts, first, config.dropout)
        self.extraction = Extraction(config, tasks, last=levels == 1)
        gate, shared = self.extraction.tasks, self.extraction.shared
        self.gate_units = (tasks * gate.units, *(() if shared is None else (shared.units,)))
        self.projections = nn.ModuleDict(
            {
                "experts": Projection(widths, experts * first[0]),
                "gates": Projection(widths, sum(self.gate_units), gain=gate.gain),
            }
        )
        self.levels = nn.Sequential()
        for number, (before, hidden) in enumerate(pairwise(config.levels), start=2):
            self.levels.append(Level(config, tasks, before[-1], hidden, last=number == levels))
        self.towers = Towers(tasks, config.levels[-1][-1], config.tower_hidden, config.dropout)

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layers ``experts [B, E·H]`` and ``gates``, the shared one last."""
        gates = first["gates"].split(self.gate_units, 1)
        streams = self.extraction(self.experts(first["experts"]), *gates)
        logits: Tensor = self.towers(self.levels(streams))
        return logits
