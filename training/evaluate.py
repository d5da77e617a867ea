"""Offline metrics: each task by its kind, and the fused score against every label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle.columns import as_numbers
from service.bundle.encoder import Encoder
from service.bundle.fusion import FusionFormula
from service.bundle.manifest import Metrics
from training import metrics
from training.config import FUSED, TaskConfig
from training.examples import masked_label, transform
from training.graphs import Scores
from training.impressions import Impressions, Log

TaskScores = Mapping[str, NDArray[np.float32]]


def scores_of(logits: Tensor, tasks: Sequence[TaskConfig]) -> dict[str, NDArray[np.float32]]:
    """Task scores ``[B]`` by task, computed as the exported graphs do."""
    with torch.inference_mode():
        outputs = Scores([task.spec() for task in tasks])(logits)
    return {task.name: output.numpy() for task, output in zip(tasks, outputs, strict=True)}


def evaluate(
    logged: TaskScores,
    served: TaskScores,
    log: Log,
    tasks: Sequence[TaskConfig],
    formula: FusionFormula,
    encoder: Encoder,
) -> dict[str, Metrics]:
    """Metrics by task, and under ``fused`` those of the fused score.

    How well it ranks (AUC, GAUC and the fused score) is measured as it will serve: a position, known only
    once a slate is made, would add the order of whoever made it. How true its numbers are, as it was logged.

    Args:
        logged: scores ``[B]`` by task, of the impressions as they were.
        served: the same, with the constants of serving in place of what is known only after the fact.
        log: the ``B`` impressions.
        tasks: masks and transforms hold here as in the loss.
        formula: of the fused score.
        encoder: gives the formula's item attributes.
    """
    impressions = log.impressions
    users = np.unique(impressions.user_id.astype(str), return_inverse=True)[1]
    labels = {task.name: masked_label(task, impressions) for task in tasks}
    found = {}
    for task in tasks:
        truth = None if log.truth is None else log.truth.get(truth_name(task))
        found[task.name] = task_metrics(
            task, logged[task.name], served[task.name], labels[task.name], users, truth
        )
    attributes = {name: _attribute(name, impressions, encoder) for name in formula.attributes}
    fused = formula.score(served, attributes)
    found[FUSED] = fused_metrics(fused, tasks, labels, users)
    return found


def _attribute(name: str, impressions: Impressions, encoder: Encoder) -> NDArray[np.float64]:
    """An item field ``[B]`` for the formula: as it was logged with the impressions, else the table's."""
    path = f"item.{name}"
    if path in impressions.inline:
        return as_numbers(impressions.inline[path], path)
    return encoder.attribute(name, encoder.item_rows(impressions.item_id), {})


def truth_name(task: TaskConfig) -> str:
    """Name of the task's true probability in a synthetic log."""
    return task.event if task.mask is None else f"{task.event}_given_{task.mask}"


def task_metrics(
    task: TaskConfig,
    score: NDArray[np.float32],
    served: NDArray[np.float32],
    label: NDArray[np.float32],
    users: NDArray[np.int64],
    truth: NDArray[np.float64] | None = None,
) -> Metrics:
    """Metrics of one task; null where a metric does not exist, as an AUC of one class.

    `true_log_loss` is that of the true probabilities, which no model can beat but by chance.
    """
    counted = int((~np.isnan(label)).sum())
    if task.kind == "regression":
        found: Metrics = {
            "mae": metrics.mae(score, label),
            "rmse": metrics.rmse(score, label),
            "correlation": metrics.correlation(score, label),
        }
        if task.transform != "none":
            learned = transform(task, score), transform(task, label)
            found[f"mae_{task.transform}"] = metrics.mae(*learned)
            found[f"correlation_{task.transform}"] = metrics.correlation(*learned)
        return found | {"rows": counted}
    found = {
        "auc": metrics.auc(served, label),
        "gauc": metrics.gauc(served, label, users),
        "log_loss": metrics.log_loss(score, label),
        "pcoc": metrics.pcoc(score, label),
        "rows": counted,
        "positives": int(np.nansum(label)),
    }
    if truth is not None:
        found["true_log_loss"] = metrics.log_loss(truth, label)
    return found


def fused_metrics(
    fused: NDArray[np.float64],
    tasks: Sequence[TaskConfig],
    labels: Mapping[str, NDArray[np.float32]],
    users: NDArray[np.int64],
) -> Metrics:
    """GAUC of the fused score against each binary task, and NDCG@10 a user with the tasks' gains."""
    binary = {task.name: labels[task.name] for task in tasks if task.kind == "binary"}
    gaucs = metrics.fused_gauc(fused, binary, users)
    found: Metrics = {f"gauc_{name}": value for name, value in gaucs.items()}
    gains = sum((task.gain * np.nan_to_num(labels[task.name]) for task in tasks), start=np.zeros(len(fused)))
    return found | {"ndcg@10": metrics.ndcg_at(10, fused, gains, users)}
