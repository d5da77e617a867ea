"""Every metric against a loop over rows, pairs, users or slates."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import (
    auc,
    correlation,
    fused_gauc,
    gauc,
    kendall_tau,
    log_loss,
    mae,
    ndcg_at,
    pcoc,
    rmse,
)

Row = tuple[float, float, int]  # score, label, group

# Few distinct scores: ties are where rank formulas go wrong.
SCORES = st.sampled_from([-1.5, 0.0, 0.25, 0.5, 0.75, 1e9])
LABELS = st.sampled_from([0.0, 1.0, math.nan])
ROWS = st.lists(st.tuples(SCORES, LABELS, st.integers(0, 3)), max_size=30)
GAINS = st.sampled_from([0.0, 0.5, 1.0, 3.0, math.nan])
GAIN_ROWS = st.lists(st.tuples(SCORES, GAINS, st.integers(0, 3)), max_size=30)
NUMBERS = st.floats(-1e3, 1e3, width=32)
PAIRS = st.lists(st.tuples(NUMBERS, st.one_of(NUMBERS, st.just(math.nan))), max_size=20)
PROBABILITIES = st.lists(st.tuples(st.floats(0, 1), LABELS), max_size=20)


def columns(rows: list[Row]) -> tuple[list[float], list[float], list[int]]:
    """Scores, labels and groups."""
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def labelled(rows: list[Row]) -> list[Row]:
    """The rows that have a label."""
    return [row for row in rows if not math.isnan(row[1])]


def auc_by_pairs(rows: list[Row]) -> float | None:
    """Every positive against every negative."""
    positives = [score for score, label, _ in rows if label == 1]
    negatives = [score for score, label, _ in rows if label == 0]
    wins = [(p > n) + (p == n) / 2 for p, n in product(positives, negatives)]
    return sum(wins) / len(wins) if wins else None


def gauc_by_loop(rows: list[Row]) -> float | None:
    """User by user."""
    total = weight = 0.0
    for group in {row[2] for row in rows}:
        members = [row for row in rows if row[2] == group]
        area = auc_by_pairs(members)
        if area is not None:
            total += len(members) * area
            weight += len(members)
    return total / weight if weight else None


def ndcg_by_loop(k: int, rows: list[Row]) -> float | None:
    """Slate by slate."""
    ratios = []
    for group in {row[2] for row in rows}:
        members = [row for row in rows if row[2] == group]
        shown = sorted(members, key=lambda row: -row[0])  # stable, as a slate is
        best = sorted(members, key=lambda row: -row[1])
        dcg, ideal = (
            sum(gain / math.log2(place + 2) for place, (_, gain, _) in enumerate(order[:k]))
            for order in (shown, best)
        )
        if ideal > 0:
            ratios.append(dcg / ideal)
    return sum(ratios) / len(ratios) if ratios else None


@given(rows=ROWS)
def test_auc_counts_pairs(rows: list[Row]) -> None:
    """AUC is the share of labelled (positive, negative) pairs in order, ties half; None without one."""
    scores, labels, _ = columns(rows)
    assert auc(scores, labels) == pytest.approx(auc_by_pairs(labelled(rows)))


@given(rows=ROWS)
def test_gauc_averages_users_by_impressions(rows: list[Row]) -> None:
    """GAUC is the loop over users with both classes, weighted by labelled impressions; None without one."""
    expected = gauc_by_loop(labelled(rows))
    assert gauc(*columns(rows)) == pytest.approx(expected)


@given(rows=ROWS)
def test_gauc_takes_ids_of_any_kind(rows: list[Row]) -> None:
    """Groups may be ids as text."""
    scores, labels, groups = columns(rows)
    names = np.array([f"user {group}" for group in groups], dtype=object)
    assert gauc(scores, labels, names) == gauc(scores, labels, groups)


def test_gauc_ignores_what_differs_between_users() -> None:
    """A score that only tells users apart has AUC above a half and GAUC of a half."""
    scores, labels, users = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [7, 7, 7, 9, 9, 9]
    assert auc(scores, labels) == pytest.approx(2 / 3)
    assert gauc(scores, labels, users) == pytest.approx(0.5)


def test_fused_gauc_is_gauc_against_every_task() -> None:
    """One score, each task's labels with its own mask."""
    scores, groups = [3.0, 2.0, 1.0, 4.0], [1, 1, 1, 1]
    labels: dict[str, list[float]] = {
        "click": [1, 0, 0, 1],
        "like": [1, 1, 1, 1],
        "buy": [0, math.nan, 1, math.nan],
    }
    assert fused_gauc(scores, labels, groups) == {"click": 1.0, "like": None, "buy": 0.0}


@given(rows=GAIN_ROWS, k=st.integers(1, 6))
def test_ndcg_is_a_loop_over_slates(rows: list[Row], k: int) -> None:
    """NDCG@k averages DCG over ideal DCG of every group that has a gain; None without one."""
    assert ndcg_at(k, *columns(rows)) == pytest.approx(ndcg_by_loop(k, labelled(rows)))


def tau_by_pairs(rows: list[Row]) -> float | None:
    """Every pair of a group that the reference orders: 1 where the scores do so, too, -1 the other way."""
    pairs = [(a[0] - b[0], a[1] - b[1]) for a, b in product(rows, rows) if a[2] == b[2] and a[1] != b[1]]
    signs = [math.copysign(1, ours * theirs) if ours else 0.0 for ours, theirs in pairs]
    return sum(signs) / len(signs) if signs else None


@given(rows=st.lists(st.tuples(SCORES, GAINS, st.integers(0, 3)), max_size=20))
def test_tau_is_a_loop_over_pairs(rows: list[Row]) -> None:
    """Pairs of all groups count alike, ties of the scores for nothing; the reference's are left out."""
    expected = tau_by_pairs(labelled(rows))
    assert kendall_tau(*columns(rows)) == (None if expected is None else pytest.approx(expected))


def test_tau_passes_over_what_is_a_rounding_error_apart() -> None:
    """Two numbers that differ in the eighth digit have no order to keep."""
    assert kendall_tau([2.0, 1.0, 3.0], [0.3, 0.3 + 1e-9, 0.4], [0] * 3) == 1.0
    assert kendall_tau([2.0, 1.0], [0.3, 0.3 + 1e-9], [0] * 2) is None


def test_ndcg_of_a_known_slate() -> None:
    """Gains 3, 2, 3, 0, 1, 2 in the order shown have DCG 6.861 and ideal DCG 7.141 at 6."""
    scores, gains = [6, 5, 4, 3, 2, 1], [3, 2, 3, 0, 1, 2]
    assert ndcg_at(6, scores, gains, [0] * 6) == pytest.approx(6.861126688 / 7.140995184)


@given(rows=PROBABILITIES)
def test_log_loss_and_pcoc_by_their_formulas(rows: list[tuple[float, float]]) -> None:
    """Log loss is finite at 0 and 1; PCOC is the ratio of sums; both skip missing labels and may be None."""
    seen = [(min(max(p, 1e-7), 1 - 1e-7), y) for p, y in rows if not math.isnan(y)]
    losses = [-(y * math.log(p) + (1 - y) * math.log(1 - p)) for p, y in seen]
    predictions, labels = [p for p, _ in rows], [y for _, y in rows]
    assert log_loss(predictions, labels) == pytest.approx(sum(losses) / len(losses) if losses else None)
    clicks = sum(y for _, y in seen)
    predicted = sum(p for p, y in rows if not math.isnan(y))
    assert pcoc(predictions, labels) == pytest.approx(predicted / clicks if clicks else None)


@given(rows=PAIRS)
def test_errors_by_their_formulas(rows: list[tuple[float, float]]) -> None:
    """MAE and RMSE average over labelled rows; None without one."""
    errors = [p - y for p, y in rows if not math.isnan(y)]
    predictions, labels = [p for p, _ in rows], [y for _, y in rows]
    absolute = sum(map(abs, errors)) / len(errors) if errors else None
    squared = math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else None
    assert mae(predictions, labels) == pytest.approx(absolute)
    assert rmse(predictions, labels) == pytest.approx(squared)


@given(rows=PAIRS)
def test_correlation_exists_where_both_vary(rows: list[tuple[float, float]]) -> None:
    """Pearson's r of the labelled rows lies in [-1, 1], is symmetric, and None where a side is constant."""
    seen = [(p, y) for p, y in rows if not math.isnan(y)]
    r = correlation([p for p, _ in rows], [y for _, y in rows])
    varies = all(len({pair[side] for pair in seen}) > 1 for side in (0, 1))
    assert (r is not None) == varies
    if r is not None:
        assert -1 <= r <= 1
        assert r == pytest.approx(correlation([y for _, y in seen], [p for p, _ in seen]))


def test_correlation_equals_numpys() -> None:
    """On ordinary numbers r is np.corrcoef's."""
    random = np.random.default_rng(3)
    x = random.normal(size=200)
    y = 0.3 * x + random.normal(size=200)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, -2 * x + 1) == pytest.approx(-1)
    assert correlation([0.1] * 3, [1, 2, 3]) is None  # whose mean is not 0.1 in floats


def test_float32_scores_are_summed_in_float64() -> None:
    """Millions of small probabilities do not drown in a float32 sum."""
    assert pcoc(np.full(2_000_000, 1e-3, np.float32), np.full(2_000_000, 1e-3)) == pytest.approx(1, abs=1e-6)


def test_nan_predictions_are_an_error() -> None:
    """NaN would sort as the best score: it is refused where the row has a label, and only there."""
    with pytest.raises(ValueError, match="predictions: 1 of 2 are NaN"):
        auc([math.nan, 0.5], [1, 0])
    assert auc([math.nan, 0.5, 0.2], [math.nan, 1, 0]) == 1


def test_arrays_of_unlike_length_are_an_error() -> None:
    """A forgotten mask on one of the arrays is an error, not a broadcast."""
    with pytest.raises(ValueError, match="each row needs one of each"):
        gauc([0.1, 0.2], [1, 0], [5])
