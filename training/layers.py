"""The layers every architecture is made of. They know features only as slots of arrays, and no paper.

Shapes: B rows (R of the user, M of items, N of candidates where a side stands alone), E experts, T tasks,
H units, d the embedding width. The first layer of all experts is one GEMM, ``[B, E·H]``, and so is that of
all gates; from the second on the expert axis is outermost, ``[E, B, H]``, and a layer one batched matmul.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Pooled:
    """Slots of an index array whose embeddings are averaged: `start` to `start + length`."""

    start: int
    length: int
    offset: int
    """first row of the feature's vocabulary in the embedding table"""


@dataclass(frozen=True, slots=True)
class Slots:
    """The two arrays of a side: ``index [B, I]`` int32 and ``value [B, V]`` float32.

    An index counts from 0 within its vocabulary; all vocabularies of a model lie one after another in one
    embedding table, so a slot adds the offset of its vocabulary.
    """

    singles: tuple[int, ...] = ()
    """offset of each of the leading slots that stand for themselves"""
    pooled: tuple[Pooled, ...] = ()
    """the slots after them, without gaps"""
    values: int = 0

    @property
    def indices(self) -> int:
        """I, the width of the index array."""
        return len(self.singles) + sum(pool.length for pool in self.pooled)

    def width(self, embedding: int) -> int:
        """Width of the side's input to the model, with embeddings of width `embedding`."""
        return (len(self.singles) + len(self.pooled)) * embedding + self.values


def embedding_table(rows: int, width: int) -> nn.Embedding:
    """The one table of all vocabularies, ``[rows, d]``, drawn from N(0, 0.01²).

    Small, so that a row seldom or never trained adds little to a score.
    """
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=0.01)
    return table


class SideEmbedding(nn.Module):
    """``index [B, I], value [B, V] -> x [B, width]``: embeddings of single slots, pooled means, values.

    A pooled feature is the mean of the embeddings at its indices other than 0, and zeros where all are 0
    (0 is padding and unknown alike).

    Args:
        slots: what the arrays hold. Raises ValueError where pooled slots leave a gap or overlap.
        table: the embedding table, shared between the sides of a model.
        dropout: share of embedding units dropped in training; values are kept.
    """

    offsets: Tensor
    members: Tensor

    def __init__(self, slots: Slots, table: nn.Embedding, dropout: float = 0.0) -> None:
        super().__init__()
        self.slots = slots
        self.table = table
        self.width = slots.width(table.embedding_dim)
        self.dropout = nn.Dropout(dropout)
        offsets = list(slots.singles)
        members = torch.zeros(len(slots.pooled), slots.indices - len(slots.singles))
        for feature, pool in enumerate(slots.pooled):
            if pool.start != len(offsets):
                raise ValueError(f"pooled[{feature}].start is {pool.start}; the next slot is {len(offsets)}")
            members[feature, pool.start - len(slots.singles) :][: pool.length] = 1
            offsets += [pool.offset] * pool.length
        # Both follow from the slots, so neither belongs in a checkpoint.
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.int32), persistent=False)
        self.register_buffer("members", members, persistent=False)

    def forward(self, index: Tensor, value: Tensor) -> Tensor:
        """The side's input to the first linear layers, ``[B, width]``."""
        parts = []
        if self.slots.indices:
            # One gather: each one more would add a dense gradient of the whole table to a training step.
            rows = self.dropout(self.table(index + self.offsets))  # [B, I, d]
            singles = len(self.slots.singles)
            if singles:
                parts.append(rows[:, :singles].flatten(1))
            if self.slots.pooled:
                parts.append(self._means(index[:, singles:], rows[:, singles:]).flatten(1))
        if self.slots.values:
            parts.append(value)
        return torch.cat(parts, 1) if parts else value

    def _means(self, index: Tensor, rows: Tensor) -> Tensor:
        """Masked means of all pooled features in one batched matmul, ``[B, P, d]``."""
        counted = (index != 0).to(rows.dtype).unsqueeze(1) * self.members  # [B, P, L]
        return (counted / counted.sum(2, keepdim=True).clamp(min=1)) @ rows


class Projection(nn.Module):
    """A first linear layer, ``W·[user; item; cross] + b``, that can be computed side by side.

    ``forward(x) == user(xu) + item(xi) + cross(xc)`` up to float error, where x = [xu, xi, xc]: what the user
    adds is computed once a request, what an item adds once a version.

    Args:
        widths: of the user, item and cross inputs.
        units: G, of the output: of all experts, or all gates, side by side.
        gain: of the initial weights, drawn from N(0, gain²/fan-in) each on its own: √2 before a ReLU
            (He et al. 2015, eq. 10), 1 before anything else.
    """

    def __init__(self, widths: Sequence[int], units: int, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.weight = nn.Parameter(torch.empty(sum(widths), units))
        self.bias = nn.Parameter(torch.zeros(units))
        nn.init.normal_(self.weight, std=gain / math.sqrt(max(sum(widths), 1)))

    def forward(self, x: Tensor) -> Tensor:
        """All sides at once, in one GEMM: ``[B, in] -> [B, G]``."""
        return torch.addmm(self.bias, x, self.weight)

    def user(self, x: Tensor) -> Tensor:
        """The user's part, ``[R, G]``; it carries the bias."""
        return torch.addmm(self.bias, x, self._part(0))

    def item(self, x: Tensor) -> Tensor:
        """The item's part, ``[M, G]``."""
        return x @ self._part(1)

    def cross(self, x: Tensor) -> Tensor:
        """The part of what depends on user and item together, ``[N, G]``."""
        return x @ self._part(2)

    def _part(self, side: int) -> Tensor:
        return self.weight.narrow(0, sum(self.widths[:side]), self.widths[side])


class BatchedLinear(nn.Module):
    """As many linear layers as `count`, ``[count or 1, B, in] -> [count, B, out]``, in one batched matmul.

    Weights are drawn as in `Projection`, each on its own: equal layers would get equal gradients for ever.
    """

    def __init__(self, count: int, inputs: int, outputs: int, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(count, 1, outputs))
        nn.init.normal_(self.weight, std=gain / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Layer i of input i; a single input goes through every layer."""
        return x @ self.weight + self.bias


def relu_layers(count: int, widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """As many stacks of linear layers as `count`, ``[count or 1, B, widths[0]] -> [count, B, widths[-1]]``.

    A ReLU follows every layer, and dropout every ReLU; a single width makes no layer.
    """
    stack = nn.Sequential()
    for inputs, outputs in pairwise(widths):
        stack.extend([BatchedLinear(count, inputs, outputs), nn.ReLU(), nn.Dropout(dropout)])
    return stack


class ExpertStack(nn.Module):
    """All experts after their first linear layer: ``[B, E·H] -> [E, B, H']``.

    Args:
        experts: E.
        hidden: units of every layer of an expert, the first (the projection's) included.
        dropout: after every ReLU, in training.
    """

    def __init__(self, experts: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = experts
        self.first = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
        self.deeper = relu_layers(experts, hidden, dropout)

    def forward(self, first: Tensor) -> Tensor:
        """Outputs of the experts, given their first linear layer before its ReLU.

        The expert axis goes outermost as a view, after the ReLU, and next to a matmul, which reads it as it
        lies. So onnxruntime makes one node of GEMM and ReLU, and one of transpose and matmul; and a step of
        training (forward and backward, 2,048 rows, 8 experts 512-256-128, two threads) takes 59 ms, against
        62 with a matmul an expert from the start.
        """
        y: Tensor = self.deeper(torch.unflatten(self.first(first), 1, (self.experts, -1)).transpose(0, 1))
        return y


class Gates(nn.Module):
    """Gates after their first linear layer, all at once: ``[B, G·units] -> [B, G, E]``.

    What a gate gives a row adds up to 1 over its experts. With no hidden layer it is the papers' softmax(Wx).

    Args:
        gates: G.
        experts: E, among which each gate shares out.
        hidden: units of the layers between, the first layer's included, a ReLU after each.
        temperature: divides what enters the softmax: above 1 gates are more even, below 1 choosier.

    Attributes:
        units: of the first layer of a gate.
        gain: of the first layer's weights.
    """

    def __init__(
        self, gates: int, experts: int, hidden: Sequence[int] = (), temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.gates = gates
        self.units = (*hidden, experts)[0]
        self.gain = math.sqrt(2) if hidden else 1.0
        self.temperature = temperature
        self.deeper = nn.Sequential()
        if hidden:
            last = BatchedLinear(gates, hidden[-1], experts, gain=1.0)
            self.deeper.extend([nn.ReLU(), *relu_layers(gates, hidden), last])

    def forward(self, first: Tensor) -> Tensor:
        """Shares of the experts, from the first layer's outputs."""
        y = torch.unflatten(first, 1, (self.gates, -1))
        if self.deeper:
            y = self.deeper(y.transpose(0, 1)).transpose(0, 1)
        shares: Tensor = (y if self.temperature == 1 else y / self.temperature).softmax(2)
        return shares


def mix(gates: Tensor, experts: Tensor) -> Tensor:
    """Each task's weighted sum of the experts: ``gates [B, T, E], experts [E, B, H] -> [T, B, H]``.

    A matmul a row. Both transposes are views here and go into the matmuls of the exported graph
    (FusedMatMul), where this was the fastest of seven: 0.6 ms for the mix and the layer after it at 500 rows,
    8 experts, 6 tasks, against 1.5 as an einsum and 2 or more as products summed over experts.
    """
    return (gates @ experts.transpose(0, 1)).transpose(0, 1)


class Towers(nn.Module):
    """The tasks' own layers, all tasks at once: ``[T or 1, B, H] -> logits [T, B]``.

    Args:
        tasks: T.
        units: H, of the input.
        hidden: units of the layers between; none makes a tower one linear layer.
        dropout: after every ReLU, in training.
    """

    def __init__(self, tasks: int, units: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        widths = (units, *hidden)
        self.hidden = relu_layers(tasks, widths, dropout)
        self.last = BatchedLinear(tasks, widths[-1], 1, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every task."""
        y: Tensor = self.last(self.hidden(x))
        return y.squeeze(2)

    def start_at(self, logits: Tensor) -> None:
        """Begin at the given logits ``[T, 1]``, about which the input then moves them."""
        with torch.no_grad():
            self.last.bias.copy_(logits.unsqueeze(2))
