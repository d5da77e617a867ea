"""Who is shown what in the synthetic world, and when: the work of an older ranker.

It picks each request's impressions from random candidates by taste and chance, and shows some regardless of
taste. It knows no more of a user than the tables do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.datasets.world.config import SyntheticConfig
from training.datasets.world.histories import repeats
from training.datasets.world.moments import NETWORKS, TABS, Moments
from training.datasets.world.population import Floats, Ints, Users, Videos

CANDIDATES: Final = 3
"""Candidates for each slot of a request."""
POLICY: Final = 0.5
"""Weight of a candidate's affinity in the older ranker, against noise of deviation 1.3."""

Affinity = Callable[[Ints, Ints], Mapping[str, Floats]]
"""The terms that say how users and videos suit each other, of pairs that broadcast."""


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """User and video, counted from 0, day (from 0) and moment of every impression, ``[n]`` each."""

    user: Ints
    video: Ints
    day: Ints
    moments: Moments

    @staticmethod
    def draw(config: SyntheticConfig, users: Users, videos: Videos, affinity: Affinity) -> Exposure:
        """The impressions of a config's log, in order of time."""
        random = config.stream("exposure")
        requests = -(-config.impressions // config.slots)
        user = random.choice(config.users, requests, p=users.pace / users.pace.sum())
        evening = 1.2 + np.cos((np.arange(24) - 20) / 24 * 2 * np.pi)
        hour = random.choice(24, requests, p=evening / evening.sum())
        day = random.integers(config.days, size=requests)
        order = np.lexsort((hour, day))
        tab = random.choice(len(TABS), requests, p=[0.6, 0.25, 0.15])
        network = random.choice(len(NETWORKS), requests, p=[0.55, 0.2, 0.25])
        video = _choose(config, videos, affinity, user, random)
        request = np.repeat(np.arange(requests), config.slots)[: config.impressions]
        position = np.tile(np.arange(config.slots), requests)[: config.impressions]
        moments = Moments(hour[order][request], tab[request], network[request], position)
        return Exposure(user[request], video[request, position], day[order][request], moments)


def _choose(
    config: SyntheticConfig, videos: Videos, affinity: Affinity, user: Ints, random: np.random.Generator
) -> Ints:
    """Videos of each user's request, ``[requests, slots]``, the older ranker's favourite first."""
    pool = random.choice(config.videos, (len(user), CANDIDATES * config.slots), p=videos.popularity)
    suits = np.add.reduce(list(affinity(user[:, None], pool).values()))
    explored = random.random(pool.shape) < config.exploration
    liking = POLICY * np.where(explored, suits.mean(), suits) + random.gumbel(size=pool.shape)
    liking[repeats(pool)] = -np.inf
    return np.take_along_axis(pool, np.argsort(-liking, axis=1)[:, : config.slots], axis=1)
