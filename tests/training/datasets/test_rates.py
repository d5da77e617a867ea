"""A synthetic world as rare as asked, and with a taste that nobody sees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from service.bundle.columns import Column, Value
from training.datasets import load_log
from training.datasets.world import SyntheticConfig, World
from training.datasets.world.rates import FARTHEST, solve_shifts
from training.impressions import Log

SMALL = SyntheticConfig(users=60, videos=400, authors=30, days=3, impressions=2_000)
RARE = {"click_rate": 0.045, "conversion_rate": 0.02}
VIDEOS = [str(video) for video in range(400)]
CONTEXT: dict[str, Column | Value] = {"hour": 20, "tab": "feed", "network": "wifi"}


def world(**changed: float) -> World:
    """The small world, changed."""
    return World(SMALL.model_copy(update=changed))


def slate(of: World, hidden_taste: float | None = None) -> Mapping[str, np.ndarray]:
    """The truth about one user and all videos."""
    return of.probabilities(["7"], VIDEOS, CONTEXT, hidden_taste)


def logit(p: np.ndarray) -> np.ndarray:
    """The log odds."""
    log_odds: np.ndarray = np.log(p / (1 - p))
    return log_odds


def values(column: Column) -> list[Value]:
    """A column as plain values."""
    return [column.at(row) for row in range(len(column))]


def truth_of(log: Log) -> Mapping[str, np.ndarray]:
    """The truth, which a synthetic log has."""
    assert log.truth is not None
    return log.truth


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["no hidden taste", "a hidden taste"])
def rare(request: pytest.FixtureRequest) -> Log:
    """A log of few clicks and fewer conversions."""
    config = SyntheticConfig(impressions=100_000, hidden_taste=request.param)
    return load_log(config.model_copy(update=RARE))


def test_a_world_is_as_rare_as_asked(rare: Log) -> None:
    """Clicks by impression and conversions by click, with a hidden taste or without."""
    truth, labels = truth_of(rare), rare.impressions.labels
    # A world is solved on impressions of its own: other impressions are off by their sampling error.
    assert truth["click"].mean() == pytest.approx(0.045, rel=0.03)
    assert truth["buy"].mean() / truth["click"].mean() == pytest.approx(0.02, rel=0.05)
    for label, given in (("click", np.ones(len(rare), bool)), ("buy", labels["click"] == 1)):
        rate = 0.045 if label == "click" else 0.02
        error = np.sqrt(rate * (1 - rate) / given.sum())
        assert abs(labels[label][given].mean() - rate) < 4.5 * error + 0.03 * rate


def test_rates_are_drawn_by_the_seed() -> None:
    """The same config gives the same log; the world is the same for a log of any length."""
    first, second = (load_log(SMALL.model_copy(update=RARE)) for _ in range(2))
    for name, label in first.impressions.labels.items():
        assert np.array_equal(label, second.impressions.labels[name])
    longer = world(**RARE, impressions=9_000, days=9)
    for event, values in slate(world(**RARE)).items():
        assert np.array_equal(values, slate(longer)[event])


def test_rates_move_their_own_events_alone() -> None:
    """By one shift of the logit an event; tables and what is shown stay as they are."""
    usual, few = world(), world(**RARE)
    before, after = slate(usual), slate(few)
    for event in ("click", "cart_given_click", "buy_given_cart"):
        shift = logit(after[event]) - logit(before[event])
        assert shift.max() < 0
        np.testing.assert_allclose(shift, shift[0])
    for event in ("valid_view", "like", "share", "completion"):
        assert np.array_equal(before[event], after[event])
    assert np.array_equal(usual.exposure().video, few.exposure().video)
    only = slate(world(click_rate=0.045))
    assert np.array_equal(only["click"], after["click"])
    assert np.array_equal(only["buy_given_click"], before["buy_given_click"])


@pytest.mark.parametrize("rate", [1e-6, 0.3, 0.999])
def test_every_rate_can_be_had(rate: float) -> None:
    """However far from the world's own."""
    logits = dict.fromkeys(("click", "cart_given_click", "buy_given_cart"), np.linspace(-3, 1, 50))
    shifts = solve_shifts(SMALL.model_copy(update={"click_rate": rate, "conversion_rate": rate}), logits)
    p = {event: 1 / (1 + np.exp(-logits[event] - shift)) for event, shift in shifts.items()}
    assert p["click"].mean() == pytest.approx(rate)
    bought = p["click"] * p["cart_given_click"] * p["buy_given_cart"]
    assert bought.sum() / p["click"].sum() == pytest.approx(rate)
    assert max(map(abs, shifts.values())) < FARTHEST


def test_without_a_hidden_taste_the_world_is_as_it_was() -> None:
    """At strength 0 the taste of nobody moves anything, not by the last digit."""
    own = slate(world())
    for taste in (-3.0, 0.0, 2.0):
        for event, values in slate(world(), taste).items():
            assert np.array_equal(values, own[event])


def test_a_hidden_taste_shows_nowhere_but_in_what_it_moves() -> None:
    """Tables, histories and what the older ranker shows are those of the world without it."""
    plain, tasted = load_log(SMALL), load_log(SMALL.model_copy(update={"hidden_taste": 1.5}))
    for name, table in plain.tables.items():
        for field, column in table.columns.items():
            np.testing.assert_equal(values(tasted.tables[name].columns[field]), values(column))
    assert plain.impressions.item_id.tolist() == tasted.impressions.item_id.tolist()
    moved = {name for name, p in truth_of(plain).items() if not np.array_equal(p, truth_of(tasted)[name])}
    assert moved == {"click", "cart_given_click", "cart", "buy_given_click", "buy"}


def test_a_hidden_taste_moves_click_and_conversion_alike() -> None:
    """Logits by the same, so that who clicks is keener to buy; a user's own is one number a category."""
    tasted = world(hidden_taste=1.5)
    low, high = slate(tasted, -1.0), slate(tasted, 1.0)
    for event in ("click", "cart_given_click"):
        np.testing.assert_allclose(logit(high[event]) - logit(low[event]), 3.0)
    own, none = slate(tasted), slate(tasted, 0.0)
    apart = {event: logit(own[event]) - logit(none[event]) for event in ("click", "cart_given_click")}
    np.testing.assert_allclose(apart["click"], apart["cart_given_click"], atol=1e-9)
    assert len(np.unique(apart["click"].round(9))) == len(np.unique(tasted.videos.category))
