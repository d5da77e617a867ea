"""Fusion: task scores and item attributes of a candidate -> one score, as data.

    score = sum over groups g of  weight_g * product over factors f of  (offset_f + scale_f * x_f) ** weight_f

`x` is a task's score, or an item attribute through a transform. The product of powers that short video ranks
by, ``p_click^a * p_like^b * f(duration)``, is one group; a weighted sum is many groups of one factor each.
All of it is computed in log space and float64, over all candidates at once, and a floor under every factor
keeps logarithms finite: no weight, however extreme, makes a NaN.

Knows no model, no schema and no request: `check` is told the names there are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.bundle.errors import FusionError

FLOOR = 1e-9
"""The least a factor's base ``offset + scale * x`` is taken for; its logarithm is then at least -20.7."""

_CEILING = 1e300
_LEAST_LOG, _MOST_LOG = -708.0, 709.0  # exp of these is a normal float64

_PARAMETERS = {
    "none": (),
    "log1p": (),
    "power": ("exponent",),
    "sigmoid": ("center", "width"),
    "piecewise": ("points",),
}

Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e12, le=1e12)]
Exponent = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=1e-12, le=1e12)]
Scores = NDArray[np.floating]
Logs = NDArray[np.float64]


class GroupLogs(NamedTuple):
    """One group's part: ``log_weight`` and the factors' logs add up to ``log_score``."""

    log_weight: float
    names: tuple[str, ...]
    """``F``: the task or the item attribute of each factor."""
    logs: Logs
    """``weight * log(base)``, [F, N]."""
    log_score: Logs
    """[N]; the logsumexp of these over the groups is the log of the fused score."""


class Factor(BaseModel):
    """``(offset + scale * x) ** weight``, the base clipped to `clip` and never below `FLOOR`.

    Exactly one of `task` and `item` names what `x` is. A task's score enters as it is. An item attribute goes
    through `transform`, and an attribute that is missing, not finite or zero is first replaced by `default`:

    ========== ==================================================================
    none       x
    log1p      log(1 + max(x, 0))
    power      max(x, 0) ** exponent
    sigmoid    1 / (1 + exp(-(x - center) / width))
    piecewise  straight lines through `points` (x, y), constant beyond the ends
    ========== ==================================================================
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str | None = None
    item: str | None = None
    weight: Exponent = 1.0
    scale: Number = 1.0
    offset: Number = 0.0
    clip: tuple[Number, Number] | None = None
    default: Number | None = None
    transform: Literal["none", "log1p", "power", "sigmoid", "piecewise"] = "none"
    exponent: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-100, le=100)] | None = None
    center: Number | None = None
    width: Positive | None = None
    points: Annotated[tuple[tuple[Number, Number], ...], Field(min_length=2, max_length=64)] | None = None

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if bool(self.task) == bool(self.item):
            raise ValueError("a factor reads one thing: give either task or item, and not both")
        if self.weight < 0 and self.offset <= 0:
            raise ValueError("a negative weight needs a positive offset, or a zero would win every slate")
        if self.clip is not None and not (self.clip[0] < self.clip[1] and self.clip[1] > FLOOR):
            raise ValueError("clip is (low, high) with low < high and a positive high")
        self._check_item()
        return self

    def _check_item(self) -> None:
        if self.task and (self.default is not None or self.transform != "none"):
            raise ValueError("default and transform belong to an item attribute; a task has neither")
        if self.item and self.default is None:
            raise ValueError("an item attribute needs a default: the x of items where it is missing or zero")
        given = {name for names in _PARAMETERS.values() for name in names if getattr(self, name) is not None}
        if given != set(_PARAMETERS[self.transform]):
            wants, has = ", ".join(_PARAMETERS[self.transform]), ", ".join(sorted(given))
            raise ValueError(f"{self.transform} takes {wants or 'no parameter'}; given: {has or 'none'}")
        if self.points and any(a[0] >= b[0] for a, b in zip(self.points, self.points[1:], strict=False)):
            raise ValueError("points must rise in x, each above the one before")
        if self.exponent is not None and self.exponent < 0 and (self.default or 0.0) <= 0:
            raise ValueError("a negative exponent needs a positive default")

    @property
    def name(self) -> str:
        """The task or the item attribute it reads."""
        return self.task or self.item or ""

    def x(self, raw: Scores) -> Logs:
        """What enters, [N], of raw values [N]: NaN only where a task's score is NaN."""
        x = np.asarray(raw, dtype=np.float64)
        if self.task:
            return x
        with np.errstate(over="ignore"):
            return self._transformed(np.where(np.isfinite(x) & (x != 0), x, self.default or 0.0))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that ``offset + scale * x`` is taken for."""
        low, high = self.clip or (FLOOR, _CEILING)
        return max(low, FLOOR), min(high, _CEILING)

    def _transformed(self, x: Logs) -> Logs:
        match self:
            case Factor(transform="log1p"):
                x = np.log1p(np.maximum(x, 0))
            case Factor(transform="power", exponent=float(exponent)):
                # The smallest normal float stands for zero: 0 ** a negative exponent would be infinite.
                x = np.minimum(np.power(np.maximum(x, np.finfo(np.float64).tiny), exponent), _CEILING)
            case Factor(transform="sigmoid", center=float(center), width=float(width)):
                # By tanh, which does not overflow.
                x = 0.5 * (1 + np.tanh((x - center) / (2 * width)))
            case Factor(transform="piecewise", points=tuple(points)):
                x = np.interp(x, *np.transpose(points))
        return x


class Group(BaseModel):
    """A product of factors; `weight` is its share in the sum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=64)]
    weight: Positive = 1.0

    def explain(self, tasks: Mapping[str, Scores], items: Mapping[str, Scores]) -> GroupLogs:
        """Every factor's log contribution, and their sum with the log of the weight."""
        columns = [
            tasks[factor.task] if factor.task else factor.x(items[factor.name]) for factor in self.factors
        ]
        x = np.concatenate(columns, dtype=np.float64).reshape(len(columns), -1)
        if not np.isfinite(x).all():
            x[~np.isfinite(x)] = np.nan
        offset, scale, weight, low, high = self._parameters
        if self._scaled:
            with np.errstate(over="ignore"):
                x = offset + scale * x
        # All in one array: others would have to come into the processor's cache first.
        np.maximum(x, low, out=x)
        np.minimum(x, high, out=x)
        np.log(x, out=x)
        x *= weight
        log_weight = math.log(self.weight)
        return GroupLogs(log_weight, self._names, x, x.sum(axis=0) + log_weight)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(factor.name for factor in self.factors)

    @cached_property
    def _scaled(self) -> bool:
        return any(factor.offset != 0 or factor.scale != 1 for factor in self.factors)

    @cached_property
    def _parameters(self) -> tuple[Logs, ...]:
        """Of all factors together, ``[F, 1]`` each: offset, scale, weight, least and greatest base."""
        rows = [(factor.offset, factor.scale, factor.weight, *factor.bounds) for factor in self.factors]
        return tuple(np.array(rows).T[:, :, None])


class FusionFormula(BaseModel):
    """A sum of groups: how a ranker's task scores become one score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: Annotated[tuple[Group, ...], Field(min_length=1, max_length=16)]

    @classmethod
    def parse(cls, raw: object) -> Self:
        """A formula from plain data (a request, deployment.json).

        Raises:
            FusionError: with the path of the first thing wrong, e.g. ``groups.0.factors.1.weight``.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(str(step) for step in first["loc"]) or "fusion"
            raise FusionError(path, first["msg"].removeprefix("Value error, ")) from None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks it reads, each once, in order of first use."""
        return tuple(dict.fromkeys(factor.task for factor in self._factors() if factor.task))

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The item attributes it reads, each once, in order of first use."""
        return tuple(dict.fromkeys(factor.item for factor in self._factors() if factor.item))

    def check(self, tasks: Collection[str], attributes: Collection[str]) -> None:
        """Refuse names that a version does not have.

        Raises:
            FusionError: naming the unknown task or attribute and those there are.
        """
        for factor in self._factors():
            kind, known = ("task", tasks) if factor.task else ("item attribute of numbers", attributes)
            if factor.name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise FusionError(factor.name, f"unknown {kind}; this version has: {there}")

    def explain(self, tasks: Mapping[str, Scores], items: Mapping[str, Scores]) -> tuple[GroupLogs, ...]:
        """Log contributions per group and factor, from the arrays `score` takes."""
        return tuple(group.explain(tasks, items) for group in self.groups)

    def log_score(self, tasks: Mapping[str, Scores], items: Mapping[str, Scores]) -> Logs:
        """Log of the fused score, [N]: orders candidates whose scores lie outside float64."""
        return log_sum(self.explain(tasks, items))

    def score(self, tasks: Mapping[str, Scores], items: Mapping[str, Scores]) -> Logs:
        """Fused score, [N], of task scores by task and raw item numbers by attribute, each [N].

        A score beyond float64 stops at its ends. NaN only where a task's score is not finite.
        """
        return fused(self.log_score(tasks, items))

    def _factors(self) -> Iterator[Factor]:
        return (factor for group in self.groups for factor in group.factors)


def log_sum(groups: Sequence[GroupLogs]) -> Logs:
    """Log of the fused score, [N], of a formula's groups."""
    if len(groups) == 1:
        return groups[0].log_score
    with np.errstate(invalid="ignore"):  # NaN in, NaN out
        total: Logs = np.logaddexp.reduce([group.log_score for group in groups], axis=0)
    return total


def fused(log_scores: Logs) -> Logs:
    """The score of its log, [N]. One beyond float64 stops at its ends: put candidates in order by the log."""
    scores: Logs = np.exp(np.minimum(np.maximum(log_scores, _LEAST_LOG), _MOST_LOG))
    return scores
