"""What a training run has made, and its scores by torch: what everything exported is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.encoder import Encoder
from service.bundle.manifest import Metrics
from service.bundle.rows import Columns, Encoded
from training.config import TrainingConfig
from training.evaluate import scores_of
from training.examples import arrays_of
from training.impressions import Impressions
from training.models import MultiTaskModel

Scores = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made.

    Attributes:
        model: with its best weights.
        encoder: fitted to the training part.
        config: of the run.
        seed: of weights and batches.
        metrics: offline, by part of the split.
        sample: impressions to take golden and parity requests from.
    """

    model: MultiTaskModel
    encoder: Encoder
    config: TrainingConfig
    seed: int
    metrics: dict[str, dict[str, Metrics]]
    sample: Impressions


def torch_scores(trained: Trained, encoded: Encoded) -> Scores:
    """Task scores ``[N]`` of a request by the torch model, every feature per row."""
    sides = flat_columns(trained.encoder, encoded)
    with torch.inference_mode():
        return scores_of(trained.model(*arrays_of(sides)), trained.config.tasks)


def flat_columns(encoder: Encoder, encoded: Encoded) -> tuple[Columns, Columns, Columns]:
    """A request with every side per candidate, ``[N]``, as `flat.onnx` reads it."""
    items = encoder.items.take(encoded.item_row)
    if encoded.fresh is not None:
        items.put(encoded.fresh_at, encoded.fresh)
    return encoded.user.take(np.zeros(len(encoded), np.int64)), items, encoded.cross
