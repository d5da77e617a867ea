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
    """The gates of a level after their first linear layer: experts ``[E, B, H]`` -> streams.

    A task's gate sees its own K experts and the S shared ones (eq. 2 to 4), the shared gate all of the level.
    The last level has no shared gate.
    """

    own: Tensor

    def __init__(self, config: PLEConfig, tasks: int, last: bool) -> None:
        super().__init__()
        self.seen = (config.specific_experts, config.shared_experts)
        style = (config.gate_hidden, config.gate_temperature)
        self.tasks = Gates(tasks, sum(self.seen), *style)
        self.shared = None if last else Gates(1, config.experts(tasks), *style)
        self.register_buffer("own", torch.eye(tasks).unsqueeze(2), persistent=False)

    def gates(self, tasks: Tensor) -> Tensor:
        """What a task takes of each expert, ``[B, T, E]``: 0 of those that its gate does not see.

        Args:
            tasks: first layer of the tasks' gates, ``[B, T·units]``.
        """
        own, common = self.tasks(tasks).split(self.seen, 2)
        # [B, T, 1, K] times the identity [T, T, 1]: each task's K among the experts of all tasks.
        return torch.cat([(own.unsqueeze(2) * self.own).flatten(2), common], 2)

    def forward(self, experts: Tensor, tasks: Tensor, shared: Tensor | None = None) -> tuple[Tensor, ...]:
        """The tasks' streams ``[T, B, H]`` and, but at the last level, the shared one ``[1, B, H]``.

        Mixed apart, since the next level reads them apart: the first of two, taken out of the mix of both,
        is a copy in `rank.onnx`, and so is its transpose.
        """
        streams = mix(self.gates(tasks), experts)
        return (streams,) if self.shared is None else (streams, mix(self.shared(shared), experts))


class Level(nn.Module):
    """A level after the first, from streams to streams: ``[T, B, H], [1, B, H] -> [T, B, H'], [1, B, H']``.

    A task's experts and gate read the task's stream (eq. 6), the shared ones the shared stream, which the
    last level does not give.
    """

    def __init__(self, config: PLEConfig, tasks: int, inputs: int, hidden: Sequence[int], last: bool) -> None:
        super().__init__()
        self.copies = config.specific_experts
        specific = tasks * config.specific_experts
        self.specific = relu_layers(specific, (inputs, *hidden), config.dropout) if specific else None
        self.shared = relu_layers(config.shared_experts, (inputs, *hidden), config.dropout)
        self.extraction = Extraction(config, tasks, last)
        gate, shared = self.extraction.tasks, self.extraction.shared
        self.task_gates = BatchedLinear(tasks, inputs, gate.units, gate.gain)
        self.shared_gate = None if shared is None else BatchedLinear(1, inputs, shared.units, shared.gain)

    def experts(self, tasks: Tensor, shared: Tensor) -> Tensor:
        """All experts of the level, ``[E, B, H']``; those of one stream read it without a copy."""
        common: Tensor = self.shared(shared)
        if self.specific is None:
            return common
        own = tasks if self.copies == 1 else tasks.repeat_interleave(self.copies, 0)
        return torch.cat([self.specific(own), common])

    def forward(self, tasks: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
        """The streams of the next level, or of the towers."""
        gates = [self.task_gates(tasks)]
        if self.shared_gate is not None:
            gates.append(self.shared_gate(shared))
        streams: tuple[Tensor, ...] = self.extraction(
            self.experts(tasks, shared), *(gate.transpose(0, 1).flatten(1) for gate in gates)
        )
        return streams


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
        self.levels = nn.ModuleList()
        for number, (before, hidden) in enumerate(pairwise(config.levels), start=2):
            self.levels.append(Level(config, tasks, before[-1], hidden, last=number == levels))
        self.towers = Towers(tasks, config.levels[-1][-1], config.tower_hidden, config.dropout)

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layers ``experts [B, E·H]`` and ``gates``, the shared one last."""
        gates = first["gates"].split(self.gate_units, 1)
        streams = self.extraction(self.experts(first["experts"]), *gates)
        for level in self.levels:
            streams = level(*streams)
        logits: Tensor = self.towers(streams[0])
        return logits
