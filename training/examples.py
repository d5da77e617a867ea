"""Impressions as tensors: what a step of training reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle.encoder import Encoder
from service.bundle.rows import Columns
from service.bundle.schema import FeatureSchema, Layout, Side
from training.config import ConfigError, SplitConfig, TaskConfig
from training.features import given_columns
from training.impressions import Impressions, Log
from training.layers import Pooled, Slots
from training.models import Inputs


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded impressions.

    Attributes:
        arrays: the six input arrays of a model, ``[B, …]`` each.
        labels: ``[T, B]`` after the task's transform; NaN where the task's mask leaves the row out.
    """

    arrays: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[1]

    def batches(self, size: int, shuffle: torch.Generator | None = None) -> Iterator[Examples]:
        """All rows in batches; in an order drawn from the generator, or as they are."""
        order = torch.arange(len(self)) if shuffle is None else torch.randperm(len(self), generator=shuffle)
        for rows in torch.split(order, size):
            yield Examples(tuple(array[rows] for array in self.arrays), self.labels[:, rows])


def split_log(log: Log, split: SplitConfig) -> dict[str, Log]:
    """Cut a log by day into ``train``, ``validate`` and ``test``. Raises ConfigError where one is empty."""
    day = log.impressions.day
    train, seen = day <= split.train_until, day <= split.validate_until
    parts = {"train": train, "validate": seen & ~train, "test": ~seen}
    for name, rows in parts.items():
        if not rows.any():
            first, last = (int(day.min()), int(day.max())) if len(day) else (0, 0)
            raise ConfigError(f"split: no impressions to {name}; the log has the days {first} to {last}")
    return {name: log.take(rows) for name, rows in parts.items()}


def encode(
    encoder: Encoder, impressions: Impressions, tasks: Sequence[TaskConfig], *, serving: bool = False
) -> Examples:
    """Impressions as a model reads them: as they were, position and all, or as serving would see them."""
    given = given_columns(impressions)
    sides = encoder.log(impressions.user_id, impressions.item_id, given, serving=serving)
    labels = [transform(task, masked_label(task, impressions)) for task in tasks]
    return Examples(arrays_of(sides), torch.from_numpy(np.stack(labels).astype(np.float32)))


def arrays_of(sides: Sequence[Columns]) -> tuple[Tensor, ...]:
    """The six arrays of a model's `forward`, from the columns of its sides."""
    return tuple(torch.from_numpy(array) for side in sides for array in (side.index, side.value))


def masked_label(task: TaskConfig, impressions: Impressions) -> NDArray[np.float32]:
    """The task's label ``[n]`` as logged, NaN in the rows that its mask leaves out.

    Raises:
        FeatureError: the log has no such label.
        ConfigError: that of an event holds anything but 0, 1 and NaN.
    """
    field = f"tasks.{task.name}"
    label = impressions.label(task.event, f"{field}.label")
    if task.kind == "binary":
        _check_event(label, f"{field}.label: {task.event!r}", "; did you mean kind = 'regression'?")
    if task.mask is None:
        return label
    mask = impressions.label(task.mask, f"{field}.mask")
    _check_event(mask, f"{field}.mask: {task.mask!r}")
    return np.where(mask == 1, label, np.float32(np.nan))


def _check_event(label: NDArray[np.float32], what: str, hint: str = "") -> None:
    """Raise ConfigError where a label holds what is neither 0, 1 nor missing."""
    odd = label[~((label == 0) | (label == 1) | np.isnan(label))]
    if len(odd):
        raise ConfigError(f"{what} holds {odd[0]:g}, and an event is 0 or 1{hint}")


def transform(task: TaskConfig, label: NDArray[np.float32]) -> NDArray[np.float32]:
    """The label as the loss reads it."""
    return np.log1p(np.maximum(label, 0)) if task.transform == "log1p" else label


def model_inputs(schema: FeatureSchema) -> Inputs:
    """What a model of this schema reads: all vocabularies one after another in one embedding table."""
    offsets, rows = {}, 0
    for name, spec in schema.fitted.vocabularies.items():
        offsets[name] = rows
        rows += spec.rows
    return Inputs(rows, *(_slots(schema.layout(side), offsets) for side in Side))


def _slots(layout: Layout, offsets: Mapping[str, int]) -> Slots:
    placed = [(block, offsets[block.vocabulary or ""]) for block in layout.index]
    return Slots(
        singles=tuple(offset for block, offset in placed if not block.pooled),
        pooled=tuple(Pooled(block.start, block.width, offset) for block, offset in placed if block.pooled),
        values=layout.value_width,
    )
