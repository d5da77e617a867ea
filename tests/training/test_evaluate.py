"""Offline metrics: under the masks of the loss, by the kind of the task, and of the fused score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.bundle.columns import Numbers, strings
from service.bundle.encoder import Encoder
from service.bundle.fusion import FusionFormula
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from training.config import TaskConfig
from training.evaluate import evaluate, fused_metrics, scores_of, task_metrics, truth_name
from training.impressions import Impressions, Log

CLICK = TaskConfig(name="click", gain=1.0)
LIKE = TaskConfig(name="like", mask="click", gain=3.0)
WATCH = TaskConfig(name="watch", kind="regression", label="watch_s", transform="log1p", unit="s")
USERS = np.array([0, 0, 0, 1, 1, 1, 2, 2], np.int64)
NAN = math.nan


def floats(*values: float) -> NDArray[np.float32]:
    """Scores or labels."""
    return np.array(values, np.float32)


def auc_by_pairs(scores: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """The share of pairs in the right order, one half for a tie."""
    pairs = [
        (float(a > b) + float(a == b) / 2)
        for a, positive in zip(scores, labels, strict=True)
        for b, other in zip(scores, labels, strict=True)
        if positive == 1 and other == 0
    ]
    return float(np.mean(pairs)) if pairs else None


def gauc_by_users(scores: NDArray[Any], labels: NDArray[Any], users: NDArray[Any]) -> float | None:
    """AUC of each user with both classes, weighted by impressions, rows without a label left out."""
    kept = ~np.isnan(labels)
    found = [
        (auc_by_pairs(scores[rows], labels[rows]), int(rows.sum()))
        for user in np.unique(users)
        for rows in [kept & (users == user)]
    ]
    both = [(area, n) for area, n in found if area is not None]
    return sum(area * n for area, n in both) / sum(n for _, n in both) if both else None


def test_scores_are_probabilities_or_natural_numbers() -> None:
    """A sigmoid of a binary logit; of a regression the number whose log1p the logit is."""
    logits = torch.tensor([[0.0, 2.0], [-1.0, 1.0], [0.0, math.log(61)]])
    scores = scores_of(logits, (CLICK, LIKE, WATCH))
    np.testing.assert_allclose(scores["click"], [0.5, 1 / (1 + math.exp(-2))], rtol=1e-6)
    np.testing.assert_allclose(scores["watch"], [0, 60], rtol=1e-6, atol=1e-6)
    plain = WATCH.model_copy(update={"transform": "none"})
    np.testing.assert_allclose(scores_of(logits[2:], (plain,))["watch"], [0, math.log(61)], rtol=1e-6)


def test_a_score_is_finite_whatever_the_logit() -> None:
    """No number leaves the range of float32, and a greater logit never means a smaller score."""
    logits = torch.tensor([[-1e30, -200.0, 200.0, 1e30]] * 3)
    for score in scores_of(logits, (CLICK, LIKE, WATCH)).values():
        assert np.isfinite(score).all()
        assert (np.diff(score) >= 0).all()


def test_a_binary_task_is_measured_where_it_has_a_label() -> None:
    """Masked rows count in no metric, whatever their score."""
    score = floats(0.9, 0.2, 0.4, 0.8, 0.8, 0.1, 0.6, 0.3)
    label = floats(1, 0, NAN, 1, 0, NAN, 0, 0)
    found = task_metrics(LIKE, score, score, label, USERS)
    kept = ~np.isnan(label)
    p, y = score[kept].astype(float), label[kept].astype(float)
    assert found == {
        "auc": pytest.approx(auc_by_pairs(p, y)),
        "gauc": pytest.approx(gauc_by_users(score, label, USERS)),
        "log_loss": pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))),
        "pcoc": pytest.approx(p.sum() / y.sum()),
        "rows": 6,
        "positives": 2,
    }


def test_the_truth_is_measured_on_the_same_rows() -> None:
    """Its log loss is what a model's is held against."""
    truth = np.full(8, 0.25)
    label = floats(1, 0, NAN, 1, 0, NAN, 0, 0)
    half = floats(*[0.5] * 8)
    found = task_metrics(LIKE, half, half, label, USERS, truth)
    assert found["true_log_loss"] == pytest.approx(-(2 * math.log(0.25) + 4 * math.log(0.75)) / 6)
    assert found["log_loss"] == pytest.approx(math.log(2))


def test_the_truth_of_a_masked_task_is_conditional() -> None:
    """A score given a click is held against P(like | click)."""
    assert truth_name(CLICK) == "click"
    assert truth_name(LIKE) == "like_given_click"
    assert truth_name(TaskConfig(name="p_like", label="like")) == "like"


@pytest.mark.parametrize("label", [0.0, 1.0, NAN], ids=["never", "always", "unknown"])
def test_a_metric_that_does_not_exist_is_none(label: float) -> None:
    """One class has no AUC, no positives no PCOC, no labels nothing."""
    half = floats(*[0.5] * 8)
    found = task_metrics(CLICK, half, half, floats(*[label] * 8), USERS)
    assert found["auc"] is None
    assert found["gauc"] is None
    assert (found["log_loss"] is None) == math.isnan(label)
    assert (found["pcoc"] is None) == (label != 1.0)
    assert (found["rows"], found["positives"]) == (0 if math.isnan(label) else 8, 8 * (label == 1.0))


def test_a_regression_is_measured_in_its_unit() -> None:
    """In seconds, and where the label was transformed on that scale too."""
    score, label = floats(1, 2, 3, 4, 0, 0, 0, 0), floats(1, 4, 2, NAN, 0, NAN, NAN, NAN)
    found = task_metrics(WATCH, score, score, label, USERS)
    p, y = np.array([1.0, 2, 3, 0]), np.array([1.0, 4, 2, 0])
    assert found == {
        "mae": pytest.approx(np.abs(p - y).mean()),
        "rmse": pytest.approx(math.sqrt(((p - y) ** 2).mean())),
        "correlation": pytest.approx(np.corrcoef(p, y)[0, 1]),
        "mae_log1p": pytest.approx(np.abs(np.log1p(p) - np.log1p(y)).mean(), rel=1e-6),
        "correlation_log1p": pytest.approx(np.corrcoef(np.log1p(p), np.log1p(y))[0, 1], rel=1e-6),
        "rows": 4,
    }
    plain = WATCH.model_copy(update={"transform": "none"})
    assert "mae_none" not in task_metrics(plain, score, score, label, USERS)


def test_the_fused_score_is_held_against_every_binary_task() -> None:
    """GAUC of each under its mask, and NDCG with the tasks' gains, where a masked label gains nothing."""
    fused = np.array([3.0, 1, 2, 1, 1, 2, 5, 4])
    labels = {
        "click": floats(1, 0, 1, 0, 1, 1, 0, 0),
        "like": floats(1, NAN, 0, NAN, 0, 1, NAN, NAN),
        "watch": floats(9, 0, 9, 0, 9, 9, 0, 0),
    }
    found = fused_metrics(fused, (CLICK, LIKE, WATCH), labels, USERS)
    gains = labels["click"] + 3 * np.nan_to_num(labels["like"])
    ideal = [4 / math.log2(2) + 1 / math.log2(3)] * 2  # of users 0 and 1; user 2 has nothing to gain
    shown = [
        gains[0] / math.log2(2) + gains[2] / math.log2(3),
        gains[5] / math.log2(2) + gains[4] / math.log2(4),  # the tie keeps its order: 3 before 4
    ]
    assert found == {
        "gauc_click": pytest.approx(gauc_by_users(fused, labels["click"], USERS)),
        "gauc_like": pytest.approx(gauc_by_users(fused, labels["like"], USERS)),
        "ndcg@10": pytest.approx(np.mean([a / b for a, b in zip(shown, ideal, strict=True)])),
    }


def test_no_gain_has_no_ndcg() -> None:
    """Tasks without gains order nothing."""
    found = fused_metrics(np.arange(8.0), (TaskConfig(name="click"),), {"click": floats(*[1] * 8)}, USERS)
    assert found == {"gauc_click": None, "ndcg@10": None}


def log_of(labels: Mapping[str, NDArray[np.float32]], truth: Mapping[str, NDArray[np.float64]] | None) -> Log:
    """Eight impressions of four items, one of them unknown to the table."""
    rows = Impressions(
        user_id=strings(str(user) for user in USERS),
        item_id=strings("12312349"),
        day=np.full(8, 20240501, np.int32),
        context={},
        labels=labels,
    )
    items = Table("item", [strings("1234")], {"length": Numbers(np.array([10.0, 20, np.nan, 0]))})
    users = Table("user", [strings("012")], {})
    return Log(rows, {"user": users, "item": items}, truth)


def test_an_evaluation_has_every_task_and_the_fused_score() -> None:
    """The fused score is the formula's, with an item's attribute or the formula's default for it."""
    labels = {"click": floats(1, 0, 1, 0, 1, 0, 1, 0), "like": floats(1, 0, 0, 0, 1, 0, 0, 0)}
    scores = {"click": floats(0.9, 0.8, 0.3, 0.2, 0.7, 0.6, 0.5, 0.4), "like": floats(*[0.1] * 8)}
    log = log_of(labels, {"click": np.full(8, 0.5)})
    encoder = Encoder(FeatureSchema(features=()), {}, log.tables)
    formula = FusionFormula.parse(
        {"groups": [{"factors": [{"task": "click"}, {"item": "length", "weight": 2, "default": 5}]}]}
    )
    found = evaluate(scores, scores, log, (CLICK, LIKE), formula, encoder)
    assert list(found) == ["click", "like", "fused"]
    assert found["click"]["true_log_loss"] == pytest.approx(math.log(2))
    assert "true_log_loss" not in found["like"]
    assert found["like"]["rows"] == 4
    length = np.array([10, 20, 5, 10, 20, 5, 5, 5])
    fused = scores["click"].astype(float) * length**2
    assert found["fused"]["gauc_click"] == pytest.approx(gauc_by_users(fused, labels["click"], USERS))


def test_the_fused_score_reads_what_was_logged() -> None:
    """A field that the impressions bring beats the table, which may hold what was seen only later."""
    labels = {"click": floats(1, 0, 1, 0, 1, 0, 1, 0)}
    log = log_of(labels, None)
    length = np.array([1.0, 2, 3, 4, 5, 6, 7, np.nan])
    log = replace(log, impressions=replace(log.impressions, inline={"item.length": Numbers(length)}))
    encoder = Encoder(FeatureSchema(features=()), {}, log.tables)
    formula = FusionFormula.parse({"groups": [{"factors": [{"item": "length", "default": 8}]}]})
    scores = {"click": floats(*[0.5] * 8)}
    found = evaluate(scores, scores, log, (CLICK,), formula, encoder)
    expected = gauc_by_users(np.arange(1.0, 9), labels["click"], USERS)
    assert found["fused"]["gauc_click"] == pytest.approx(expected)


def test_ranking_is_measured_as_it_will_serve_and_calibration_as_it_was_logged() -> None:
    """AUC and GAUC read the served scores, log loss and PCOC the logged ones."""
    label = floats(0, 1, 0, 1, 0, 1, 0, 1)
    sure, wrong = floats(*(0.9 * label + 0.05)), floats(*(0.95 - 0.9 * label))
    found = task_metrics(LIKE, sure, wrong, label, USERS)
    assert found["auc"] == 0.0
    assert found["pcoc"] == pytest.approx(1.0)
    assert found["log_loss"] == pytest.approx(-np.log(0.95), rel=1e-5)
