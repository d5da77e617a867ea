"""What the entire-space benchmark calls the truth, and the table that it prints."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.entire_space import CONFIG, ESTIMATORS, Score, Seen, Truth, report, score, seen, truth_of
from training.config import load_config
from training.datasets import load_log
from training.datasets.world import SyntheticConfig
from training.models import without_loss

TINY = SyntheticConfig(users=200, videos=400, authors=30, days=3, impressions=20_000, click_rate=0.05)


def test_estimators_differ_in_what_they_learn_alone() -> None:
    """All give pCVR, with networks, steps and impressions as the one file has them."""
    configs = {name: load_config(CONFIG, changed) for name, changed in ESTIMATORS.items()}
    one = configs["ESMM"]
    for config in configs.values():
        assert "buy_given_click" in [task.name for task in config.tasks]
        sizes = config.model.model_dump(exclude={"name", "variant"})
        assert sizes == one.model.model_dump(exclude={"name", "variant"})
        assert (config.train, config.features, config.dataset) == (one.train, one.features, one.dataset)
    learned = {
        name: [
            (task.event, task.mask)
            for task in config.tasks
            if task.name not in without_loss(config.model, [each.spec() for each in config.tasks])
        ]
        for name, config in configs.items()
    }
    assert learned == {
        "ESMM": [("click", None), ("buy", None)],
        "DIVISION": [("click", None), ("buy", None)],
        "click-only": [("buy", "click")],
        "naive": [("buy", None)],
    }


def test_without_a_hidden_taste_there_is_one_truth() -> None:
    """Who sees the features sees all."""
    log = load_log(TINY)
    truth = truth_of(TINY, log)
    np.testing.assert_allclose(truth.blind, truth.own)
    np.testing.assert_allclose(truth.clickers, truth.own)


def test_clicks_overrate_the_impressions_that_share_their_hidden_cause() -> None:
    """The mean over the taste is unbiased; over the taste of those who click it is too high everywhere, and
    is what the clicked impressions show."""
    config = TINY.model_copy(update={"hidden_taste": 1.0, "conversion_rate": 0.3, "impressions": 60_000})
    log = load_log(config)
    truth = truth_of(config, log)
    assert (truth.clickers > truth.blind).all()
    assert truth.blind.mean() == pytest.approx(truth.own.mean(), rel=0.05)
    clicked = log.impressions.labels["click"] == 1
    bought = log.impressions.labels["buy"][clicked].mean()
    assert truth.clickers[clicked].mean() == pytest.approx(bought, rel=0.1)
    assert truth.blind[clicked].mean() < 0.8 * bought


def test_an_estimate_is_measured_over_all_impressions() -> None:
    """Errors clicked or not, AUC where clicked."""
    own = np.array([0.1, 0.2, 0.3, 0.4])
    truth = Truth(own, blind=np.full(4, 0.25), clickers=own)
    click, buy = np.array([1, 1, 0, 0], np.float32), np.array([0, 1, 0, 0], np.float32)
    found = score(own + np.array([0.1, 0.0, -0.1, 0.2]), truth, {"click": click, "buy": buy})
    assert found.mae == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.05)
    assert found.mae_blind == pytest.approx((0.05 + 0.05 + 0.05 + 0.35) / 4)
    assert found.auc == 0.5
    assert score(own, truth, {"click": click, "buy": 0 * buy}).auc is None


def test_a_log_says_how_rare_it_is() -> None:
    """Clicks by impression, conversions by click, and the mean truth of all impressions."""
    log = load_log(TINY)
    found = seen(log)
    labels = log.impressions.labels
    assert found.click == pytest.approx(labels["click"].mean())
    assert found.conversion == pytest.approx(labels["buy"][labels["click"] == 1].mean())
    assert log.truth is not None
    assert found.truth == log.truth["buy_given_click"].mean()


def test_the_table_has_means_and_deviations_over_the_seeds() -> None:
    """In percentage points, a line an estimate; then in how many seeds ESMM is nearer."""
    logs = [Seen(0.04, 0.02, 0.01), Seen(0.06, 0.02, 0.03)]
    runs = [
        {"ESMM": Score(0.01, 0.001, 0.005, 0.6), "naive": Score(0.02, -0.02, 0.02, None)},
        {"ESMM": Score(0.03, -0.001, 0.005, 0.7), "naive": Score(0.02, -0.02, 0.02, 0.5)},
    ]
    rates, mean, head, esmm, naive, last = report("a world", logs, runs)
    assert rates.startswith("a world: clicks 5.000 ± 1.414 % of impressions, conversions 2.000 ± 0.000 %")
    assert "all impressions 2.000 ± 1.414 %" in mean
    assert head.split() == ["MAE", "bias", "MAE,", "taste", "aside", "AUC", "on", "clicks"]
    assert " ".join(esmm.split()) == "ESMM 2.000 ± 1.414 0.000 ± 0.141 0.500 ± 0.000 0.650 ± 0.071"
    assert " ".join(naive.split()) == "naive 2.000 ± 0.000 -2.000 ± 0.000 2.000 ± 0.000 0.500"
    assert last == "  ESMM is nearer the truth (MAE) than naive in 1 of 2 seeds"
