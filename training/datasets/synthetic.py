"""A log of the synthetic short-video world: who was shown what, and what came of it.

An older ranker picks each request's impressions from random candidates by taste and chance, and shows some
regardless of taste. Labels are drawn from the true probabilities, which stay beside the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.datasets.world.config import SyntheticConfig
from training.datasets.world.histories import repeats
from training.datasets.world.moments import NETWORKS, TABS, Moments
from training.datasets.world.population import Flags, Floats, Ints, numbered
from training.datasets.world.truth import SKIPPED, World
from training.impressions import Impressions, Log

CANDIDATES: Final = 3
"""Candidates for each slot of a request."""
POLICY: Final = 0.5
"""Weight of a candidate's affinity in the older ranker, against noise of deviation 1.3."""
CERTAINTY: Final = 6.0
"""How close completions keep to their mean: a beta distribution's two parameters sum to this."""


def generate(config: SyntheticConfig) -> Log:
    """The log of a config's world, in order of time, with its truth. The same config gives the same log."""
    world = World(config)
    user, video, day, moments = _draw_exposure(world)
    truth = world.truth(user, video, moments)
    impressions = Impressions(
        user_id=numbered(config.users)[user],
        item_id=numbered(config.videos)[video],
        day=_dates(config)[day],
        context=moments.columns(),
        labels=_draw_labels(config, truth, world.videos.length[video]),
    )
    return Log(impressions, world.tables, truth)


def _draw_exposure(world: World) -> tuple[Ints, Ints, Ints, Moments]:
    """User, video, day (from 0) and moment of every impression, ``[n]`` each."""
    config, random = world.config, world.config.stream("exposure")
    requests = -(-config.impressions // config.slots)
    user = random.choice(config.users, requests, p=world.users.pace / world.users.pace.sum())
    evening = 1.2 + np.cos((np.arange(24) - 20) / 24 * 2 * np.pi)
    hour = random.choice(24, requests, p=evening / evening.sum())
    day = random.integers(config.days, size=requests)
    order = np.lexsort((hour, day))
    tab = random.choice(len(TABS), requests, p=[0.6, 0.25, 0.15])
    network = random.choice(len(NETWORKS), requests, p=[0.55, 0.2, 0.25])
    video = _choose(world, user, random)
    request = np.repeat(np.arange(requests), config.slots)[: config.impressions]
    position = np.tile(np.arange(config.slots), requests)[: config.impressions]
    moments = Moments(hour[order][request], tab[request], network[request], position)
    return user[request], video[request, position], day[order][request], moments


def _choose(world: World, user: Ints, random: np.random.Generator) -> Ints:
    """Videos of each user's request, ``[requests, slots]``, the older ranker's favourite first."""
    config = world.config
    pool = random.choice(config.videos, (len(user), CANDIDATES * config.slots), p=world.videos.popularity)
    affinity = np.add.reduce(list(world.affinity(user[:, None], pool).values()))
    explored = random.random(pool.shape) < config.exploration
    liking = POLICY * np.where(explored, affinity.mean(), affinity) + random.gumbel(size=pool.shape)
    liking[repeats(pool)] = -np.inf
    return np.take_along_axis(pool, np.argsort(-liking, axis=1)[:, : config.slots], axis=1)


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
