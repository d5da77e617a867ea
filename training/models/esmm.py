"""The entire-space multi-task model: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for
Estimating Post-Click Conversion Rate", SIGIR 2018; for funnels of any length and shape.

A funnel's tasks come in pairs. One is conditional (buy, where cart), the other in the entire space (buy, over
all impressions), and p(buy) = p(cart)·p(buy | cart). Learned in the entire space only, the conditional one is
not biased by which impressions reach its step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import softplus

from service.bundle.manifest import TaskSpec
from training.layers import ExpertStack, Projection, Towers

LEAST_GAP = 1e-4
"""in log odds, by which an event is held to be rarer than the one before it in the funnel"""
MOST_LOGIT = 16.0
"""of a quotient: float32 has few numbers left between its probability and 1"""


class ESMMConfig(BaseModel):
    """Sizes of an ESMM; `hidden` are the layers of a network before its logit.

    Attributes:
        variant: ``product`` is the paper's ESMM. ``division``, a baseline of it, gives entire-space tasks the
            networks and divides for the conditional ones: p(buy | cart) = p(buy) / p(cart).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["esmm"] = "esmm"
    variant: Literal["product", "division"] = "product"
    embedding: PositiveInt = 16
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 128, 64)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    embedding_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a funnel, p(reached) = p(before)·p(conditional), as places among the tasks."""

    before: int
    conditional: int
    reached: int


def funnel(tasks: Sequence[TaskSpec]) -> tuple[Step, ...]:
    """The steps that the binary tasks with a mask make, each after the one before it.

    Raises:
        ValueError: there is none, or one lacks the entire-space tasks that it is learned through.
    """
    conditional = _by_event(tasks, [task.kind == "binary" and task.given is not None for task in tasks])
    entire = _by_event(tasks, [task.kind == "binary" and task.given is None for task in tasks])
    given = {event: tasks[at].given or "" for event, at in conditional.items()}
    if not conditional:
        raise ValueError("esmm needs a binary task with a mask, as buy where click")
    for event, before in given.items():
        if missing := [needed for needed in (before, event) if needed not in entire]:
            raise ValueError(
                f"{tasks[conditional[event]].name} is learned through {before} and {event} over all "
                f"impressions; add a binary task with label {missing[0]!r} and no mask"
            )
    try:
        order = [*TopologicalSorter({event: [before] for event, before in given.items()}).static_order()]
    except CycleError as error:
        raise ValueError(f"masks go in a circle: {' -> '.join(error.args[1])}") from None
    return tuple(
        Step(entire[given[event]], conditional[event], entire[event]) for event in order if event in given
    )


def _by_event(tasks: Sequence[TaskSpec], chosen: Sequence[bool]) -> dict[str, int]:
    """Places of the chosen tasks by event. Raises ValueError where two are of the same."""
    places: dict[str, int] = {}
    for at, task in enumerate(tasks):
        if chosen[at] and places.setdefault(task.event, at) != at:
            first = tasks[places[task.event]].name
            raise ValueError(f"{first} and {task.name} both read {task.event!r}; a funnel has one way to it")
    return places


def joint_logit(before: Tensor, conditional: Tensor) -> Tensor:
    """Logit of σ(before)·σ(conditional), in log space.

    1/p − 1 = (1 + e^−a)(1 + e^−b) − 1 = e^−a + e^−b + e^−(a+b), whose logarithm is the logit's negative. No
    number is lost where a product is near 0 or 1, and a gradient is at most 1.
    """
    return -torch.logsumexp(torch.stack([-before, -conditional, -before - conditional]), 0)


def conditional_logit(before: Tensor, reached: Tensor) -> Tensor:
    """Logit of σ(reached)/σ(before), the inverse of `joint_logit`; its guard keeps the ratio below 1.

    With a = before and the gap g = a − reached > 0, 1/p − 1 = (e^g − 1) / (1 + e^a). Where networks of their
    own give no gap, as they may, it is taken to be `LEAST_GAP`; the logit is at most `MOST_LOGIT`.
    """
    gap = (before - reached).clamp(min=LEAST_GAP)
    return (softplus(before) - gap - torch.log(-torch.expm1(-gap))).clamp(max=MOST_LOGIT)


class FunnelTowers(nn.Module):
    """`Towers` for the tasks that have a network, and the rest of a funnel from their logits.

    Args:
        steps: of the funnel.
        tasks: T.
        units: H, of the input.
        variant: see `ESMMConfig`.
    """

    def __init__(self, steps: Sequence[Step], tasks: int, units: int, variant: str) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.divides = variant == "division"
        derived = {step.conditional if self.divides else step.reached for step in steps}
        self.direct = [task for task in range(tasks) if task not in derived]
        self.towers = Towers(len(self.direct), units, ())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every task, ``[T, B]``, from the networks' outputs ``[S, B, H]``."""
        logits = dict(zip(self.direct, self.towers(x).unbind(0), strict=True))
        for step in self.steps:
            if self.divides:
                logits[step.conditional] = conditional_logit(logits[step.before], logits[step.reached])
            else:
                logits[step.reached] = joint_logit(logits[step.before], logits[step.conditional])
        return torch.stack([logits[task] for task in range(len(logits))])

    def start_at(self, logits: Tensor) -> None:
        """Begin at the given logits of all tasks, ``[T, 1]``."""
        self.towers.start_at(logits[self.direct])


class ESMM(nn.Module):
    """p(buy) = p(click)·p(buy | click) (eq. 1), a network a factor, over embeddings that all share.

    A conditional task has no loss: its network learns through those of the products alone (eq. 3), over all
    impressions. Tasks outside of the funnel have networks and losses of their own.

    Args:
        config: the sizes.
        widths: of the user, item and cross inputs.
        tasks: of the funnel and others. Raises ValueError where they make no funnel.
    """

    def __init__(self, config: ESMMConfig, widths: Sequence[int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.towers = FunnelTowers(funnel(tasks), len(tasks), config.hidden[-1], config.variant)
        networks = len(self.towers.direct)
        self.projections = nn.ModuleDict({"networks": Projection(widths, networks * config.hidden[0])})
        self.networks = ExpertStack(networks, config.hidden, config.dropout)

    def head(self, first: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[T, B]`` from the first layer ``networks [B, S·H]``."""
        logits: Tensor = self.towers(self.networks(first["networks"]))
        return logits
