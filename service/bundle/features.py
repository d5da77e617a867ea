"""One feature: a raw column -> its slots in an array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import (
    Column,
    Lists,
    Rows,
    Texts,
    as_lists,
    as_numbers,
    as_texts,
    as_vectors,
)
from service.bundle.errors import FeatureError
from service.bundle.kinds import (
    Categorical,
    ColumnFeature,
    Fitted,
    Multi,
    Numeric,
    Scale,
    SequenceOfIds,
    Vector,
    is_bucketed,
)
from service.bundle.vocabulary import AnyVocabulary, HashedVocabulary, Vocabulary

BOUND = 1e6
"""numbers that enter a graph end at ± this, so that an absurd one stays finite in float32"""

RARE = 1e-6
"""the least rate whose logit is told from another's"""

MATCH_ROWS = 1024
"""rows of a log that a `match` compares at a time: bounds its memory"""

COUNTED = 1 << 16
"""rows of a vocabulary up to which a `match` counts all of them: faster than a search, in half a megabyte"""

_AS_IT_IS = Scale()


def encode_column(
    feature: ColumnFeature, column: Column, fitted: Fitted, vocabulary: AnyVocabulary | None
) -> Rows | NDArray[np.float32]:
    """Slots ``[n, width]`` of a feature: int32 rows of its embedding, or float32 numbers within ±`BOUND`.

    Raises:
        FeatureError: a value of another kind than the feature's, named by the feature's path.
    """
    if isinstance(feature, Numeric):
        return _numeric(feature, as_numbers(column, feature.source), fitted)
    if isinstance(feature, Vector):
        return _vector(as_vectors(column, feature.width, feature.source))
    if not isinstance(vocabulary, Vocabulary | HashedVocabulary):
        raise FeatureError(feature.name, "has no vocabulary in this bundle")
    if isinstance(feature, Categorical):
        if isinstance(column, Texts):
            return column.made(vocabulary, vocabulary.rows)[:, None]
        return vocabulary.rows(as_texts(column, feature.source))[:, None]
    return _pooled(feature, as_lists(column, feature.source), vocabulary)


def transformed(feature: Numeric, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers after the feature's transform.

    log1p takes what is below zero as zero; logit, ``log(x / (1 - x))``, takes what is beyond 0 or 1 as `RARE`
    within them.
    """
    match feature.transform:
        case "log1p":
            return np.log1p(np.maximum(numbers, 0.0))
        case "logit":
            rate = np.clip(numbers, RARE, 1 - RARE)
            return np.log(rate / (1 - rate))
        case "none":
            return numbers


def match_counts(items: Rows, sequence: Rows, through: Rows | None, size: int) -> NDArray[np.float32]:
    """How often each row's item values stand in the sequence.

    Args:
        items: ``[N, k]`` values of the candidate, 0 is none.
        sequence: ``[N, L]``, or ``[1, L]`` for one request, 0 is none.
        through: the values ``[ids, k]`` that an id of the sequence stands for; None where it holds values.
        size: above every value.

    Returns:
        counts ``[N]``.
    """
    counts = np.empty(len(items), np.float32)
    if len(sequence) == 1:
        values = sequence if through is None else through[sequence]
        counts[:] = _occurrences(items, values[values > 0], size).sum(axis=1)
        return counts
    for start in range(0, len(items), MATCH_ROWS):
        rows = slice(start, start + MATCH_ROWS)
        values = sequence[rows] if through is None else through[sequence[rows]]
        listed, candidates = values.reshape(len(values), 1, -1), items[rows, :, None]
        counts[rows] = ((candidates == listed) & (candidates > 0)).sum(axis=(1, 2))
    return counts


def _occurrences(items: Rows, values: Rows, size: int) -> NDArray[np.integer]:
    if size <= COUNTED:
        return np.bincount(values, minlength=size)[items]
    ascending = np.sort(values)
    return ascending.searchsorted(items, "right") - ascending.searchsorted(items, "left")


def _numeric(feature: Numeric, numbers: NDArray[np.float64], fitted: Fitted) -> Rows | NDArray[np.float32]:
    missing: NDArray[np.bool_] = np.isnan(numbers)
    values = transformed(feature, numbers)
    if is_bucketed(feature):
        bucket = 1 + np.searchsorted(np.array(fitted.edges[feature.name]), values, side="right")
        return np.where(missing, 0, bucket).astype(np.int32)[:, None]
    scale = fitted.scales.get(feature.name, _AS_IT_IS)
    slots = np.empty((len(values), 2), np.float32)
    with np.errstate(over="ignore"):
        slots[:, 0] = _bounded((values - scale.mean) / scale.deviation)
    slots[missing, 0] = 0.0
    slots[:, 1] = missing
    return slots


def _vector(values: NDArray[np.floating]) -> NDArray[np.float32]:
    missing = np.isnan(values).any(axis=1)
    slots = np.empty((len(values), values.shape[1] + 1), np.float32)
    slots[:, :-1] = _bounded(values)
    slots[missing, :-1] = 0.0
    slots[:, -1] = missing
    return slots


def _bounded(numbers: NDArray[np.floating]) -> NDArray[np.floating]:
    bounded: NDArray[np.floating] = np.minimum(np.maximum(numbers, -BOUND), BOUND)
    return bounded


def _pooled(feature: Multi | SequenceOfIds, lists: Lists, vocabulary: Vocabulary | HashedVocabulary) -> Rows:
    """Padded rows ``[n, max_length]``: the first values of a `multi`, the last ones of a sequence."""
    width, lengths = feature.max_length, np.diff(lists.offsets)
    kept = np.minimum(lengths, width)
    first = lists.offsets[1:] - kept if isinstance(feature, SequenceOfIds) else lists.offsets[:-1]
    at = np.arange(width)
    inside = at < kept[:, None]
    padded = np.zeros((len(lists), width), np.int32)
    padded[inside] = vocabulary.rows(lists.values[(first[:, None] + at)[inside]])
    return padded
