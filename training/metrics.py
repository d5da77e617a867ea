"""What a task's scores are worth, on logged labels. numpy only; it knows no model.

Everywhere: arrays of one row an impression; a row whose label is NaN is left out, as it is in the loss; a
metric that does not exist (no rows, one class, no variance) is None. A NaN prediction raises ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST_GAP = 1e-6
"""between numbers that stand in an order, as a share of the greater; float32 has seven digits"""


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2; labels 0 and 1. None with one class.

    By ranks, ties sharing their mean (Mann and Whitney 1947): ``(Σ_pos rank − P(P + 1)/2) / (P·N)``.
    """
    scores, labels, _ = _labelled(scores, labels)
    areas, _ = _areas(scores, labels, np.zeros(len(labels), np.int64))
    return None if np.isnan(areas).all() else float(areas[0])


def gauc(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> float | None:
    """Group AUC: ``Σ_u n_u·AUC_u / Σ_u n_u`` over the groups (users) with both classes, None without one.

    n_u is the impressions of u (Zhu et al., "Optimized Cost per Click in Taobao Display Advertising",
    KDD 2017). `groups` are ids of any sortable kind; integers are fastest.
    """
    scores, labels, groups = _labelled(scores, labels, groups)
    areas, impressions = _areas(scores, labels, groups)
    both = ~np.isnan(areas)
    return float(np.average(areas[both], weights=impressions[both])) if both.any() else None


def fused_gauc(
    scores: ArrayLike, labels: Mapping[str, ArrayLike], groups: ArrayLike
) -> dict[str, float | None]:
    """GAUC of one score (the fused one) against the labels of each binary task."""
    codes = _codes(np.asarray(groups))
    return {task: gauc(scores, values, codes) for task, values in labels.items()}


def ndcg_at(k: int, scores: ArrayLike, gains: ArrayLike, groups: ArrayLike) -> float | None:
    """Mean over groups of ``DCG@k / ideal DCG@k``, ``DCG@k = Σ_{r<k} gain_r / log2(r + 2)`` with r from 0.

    Järvelin and Kekäläinen 2002, gains as given. Equal scores keep their order, as a slate does. A group
    without a positive ideal has no NDCG and is left out; None where none is left.
    """
    scores, gains, groups = _labelled(scores, gains, groups)
    codes = _codes(groups)
    ideal = _dcg_at(k, gains, gains, codes)
    some = ideal > 0
    return float(np.mean(_dcg_at(k, scores, gains, codes)[some] / ideal[some])) if some.any() else None


def kendall_tau(scores: ArrayLike, reference: ArrayLike, groups: ArrayLike) -> float | None:
    """Kendall's tau, ``(concordant − discordant) / pairs``, over the pairs within a group of all groups.

    Kendall 1938. Pairs that the reference does not tell apart by more than `LEAST_GAP` have no order and are
    left out; None where no pair is left. Memory goes with the square of the largest group.
    """
    scores, reference, groups = _labelled(scores, reference, groups)
    agreed = pairs = 0.0
    for group in np.unique(groups):
        ours, theirs = scores[groups == group], reference[groups == group]
        gaps = theirs[:, None] - theirs
        order = np.sign(gaps) * (np.abs(gaps) > LEAST_GAP * np.maximum.outer(np.abs(theirs), np.abs(theirs)))
        agreed += float((order * np.sign(ours[:, None] - ours)).sum())
        pairs += float(np.abs(order).sum())
    return agreed / pairs if pairs else None


def log_loss(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """``−mean(y·ln p + (1 − y)·ln(1 − p))``, with p kept within [1e-7, 1 − 1e-7]."""
    p, y, _ = _labelled(probabilities, labels)
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))) if len(y) else None


def pcoc(predictions: ArrayLike, labels: ArrayLike) -> float | None:
    """Predicted over observed, ``Σ p / Σ y``: 1 is calibrated. None where nothing was observed."""
    p, y, _ = _labelled(predictions, labels)
    observed = y.sum()
    return float(p.sum() / observed) if observed else None


def mae(predictions: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean absolute error, ``mean|p − y|``, in the unit of the label."""
    p, y, _ = _labelled(predictions, labels)
    return float(np.mean(np.abs(p - y))) if len(y) else None


def rmse(predictions: ArrayLike, labels: ArrayLike) -> float | None:
    """Root of the mean squared error, ``√mean(p − y)²``, in the unit of the label."""
    p, y, _ = _labelled(predictions, labels)
    return float(np.sqrt(np.mean((p - y) ** 2))) if len(y) else None


def correlation(predictions: ArrayLike, labels: ArrayLike) -> float | None:
    """Pearson's ``cov(p, y) / (σ_p·σ_y)``. None where either does not vary."""
    p, y, _ = _labelled(predictions, labels)
    # The mean of equal floats need not be that float: their range says whether they vary.
    if not len(y) or not np.ptp(p) or not np.ptp(y):
        return None
    p, y = _centred(p), _centred(y)
    return float(np.clip(p @ y / np.sqrt((p @ p) * (y @ y)), -1, 1))


def _labelled(
    predictions: ArrayLike, labels: ArrayLike, groups: ArrayLike | None = None
) -> tuple[Floats, Floats, NDArray[Any]]:
    """The rows that have a label, predictions and labels as float64."""
    predictions, labels = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    groups = np.zeros(len(labels)) if groups is None else np.asarray(groups)
    if not predictions.shape == labels.shape == groups.shape:
        shapes = f"{predictions.shape}, {labels.shape} and {groups.shape}"
        raise ValueError(f"predictions, labels and groups: shapes {shapes}; each row needs one of each")
    kept = ~np.isnan(labels)
    missing = int(np.isnan(predictions[kept]).sum())
    if missing:
        raise ValueError(f"predictions: {missing} of {kept.sum()} are NaN; every labelled row needs one")
    return predictions[kept], labels[kept], groups[kept]


def _codes(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Groups as 0, 1, …"""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _areas(scores: Floats, labels: Floats, groups: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    """AUC of each group, NaN with one class, and its impressions."""
    codes = _codes(groups)
    order = np.lexsort((scores, codes))
    scores, positive, codes = scores[order], labels[order] > 0.5, codes[order]
    size = np.bincount(codes)
    # A run is a stretch of one group and one score: its rows share the mean of their ranks.
    first = np.r_[True, (codes[1:] != codes[:-1]) | (scores[1:] != scores[:-1])][: len(codes)]
    run = np.cumsum(first) - 1
    start = np.flatnonzero(first)
    middle = start + (np.bincount(run) + 1) / 2
    ranks = middle[run] - _starts(size)[codes]
    positives = np.bincount(codes, positive, minlength=len(size))
    wins = np.bincount(codes, ranks * positive, minlength=len(size)) - positives * (positives + 1) / 2
    pairs = positives * (size - positives)
    areas = np.full(len(size), np.nan)
    np.divide(wins, pairs, out=areas, where=pairs > 0)
    return areas, size


def _dcg_at(k: int, scores: Floats, gains: Floats, codes: NDArray[np.int64]) -> Floats:
    """DCG@k of each group, rows ordered by descending score."""
    order = np.lexsort((-scores, codes))  # stable
    size = np.bincount(codes)
    place = np.arange(len(order)) - _starts(size)[codes[order]]
    shown = np.where(place < k, gains[order] / np.log2(place + 2), 0.0)
    return np.asarray(np.bincount(codes[order], shown, minlength=len(size)), np.float64)


def _starts(size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each group starts, groups of the given sizes lying one after another."""
    return np.cumsum(size) - size


def _centred(values: Floats) -> Floats:
    """Deviations from the mean, scaled to at most 1 so that their squares neither overflow nor vanish."""
    deviations = values - values.mean()
    return np.asarray(deviations / np.abs(deviations).max())
