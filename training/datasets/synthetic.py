"""A log of the synthetic short-video world: who was shown what, and what came of it.

An older ranker has chosen the impressions (world/exposure.py). Labels are drawn from the true probabilities,
which stay beside the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.datasets.world.config import SyntheticConfig
from training.datasets.world.population import Flags, Floats, numbered
from training.datasets.world.truth import SKIPPED, World
from training.impressions import Impressions, Log

CERTAINTY: Final = 6.0
"""How close completions keep to their mean: a beta distribution's two parameters sum to this."""


def generate(config: SyntheticConfig) -> Log:
    """The log of a config's world, in order of time, with its truth. The same config gives the same log."""
    world = World(config)
    shown = world.exposure()
    truth = world.truth(shown.user, shown.video, shown.moments)
    impressions = Impressions(
        user_id=numbered(config.users)[shown.user],
        item_id=numbered(config.videos)[shown.video],
        day=_dates(config)[shown.day],
        context=shown.moments.columns(),
        labels=_draw_labels(config, truth, world.videos.length[shown.video]),
    )
    return Log(impressions, world.tables, truth)


def _draw_labels(
    config: SyntheticConfig, truth: Mapping[str, Floats], length: Floats
) -> dict[str, NDArray[np.float32]]:
    """What happened, ``[n]`` by label; what can only follow another event is 0 where that did not happen."""
    random, n = config.stream("labels"), len(length)

    def happened(event: str) -> Flags:
        return random.random(n) < truth[event]

    click, valid_view = happened("click"), happened("valid_view")
    cart = click & happened("cart_given_click")
    mean = np.where(valid_view, truth["completion_given_valid_view"], SKIPPED)
    completion = random.beta(CERTAINTY * mean, CERTAINTY * (1 - mean))
    labels = {
        "click": click,
        "valid_view": valid_view,
        "completion": completion,
        "watch_time": completion * length,
        "like": valid_view & happened("like_given_valid_view"),
        "share": valid_view & happened("share_given_valid_view"),
        "comment": valid_view & happened("comment_given_valid_view"),
        "cart": cart,
        "buy": cart & happened("buy_given_cart"),
    }
    return {name: label.astype(np.float32) for name, label in labels.items()}


def _dates(config: SyntheticConfig) -> NDArray[np.int32]:
    """The log's days as yyyymmdd."""
    days = np.datetime64(config.first_day) + np.arange(config.days)
    return np.array([int(str(day).replace("-", "")) for day in days], dtype=np.int32)
