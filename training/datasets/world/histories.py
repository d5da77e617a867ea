"""What each user watched and liked before the log of the synthetic world starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from service.bundle.columns import Lists
from training.datasets.world.config import SyntheticConfig
from training.datasets.world.population import Flags, Floats, Ints, Taste, Users, Videos, numbered

FOLLOWED: Final = 3
"""Authors whose videos a user seeks out."""
NEWCOMERS: Final = 0.03
"""Share of users without a history."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Videos that each user met, oldest first: user ``u`` met ``video[offsets[u]:offsets[u + 1]]``."""

    video: Ints
    offsets: Ints

    @staticmethod
    def of(videos: Ints, kept: Flags) -> History:
        """The kept entries of a matrix ``[users, n]``."""
        return History(videos[kept], np.concatenate([[0], np.cumsum(kept.sum(axis=1))]))

    @property
    def user(self) -> Ints:
        """The user of each entry of `video`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def column(self) -> Lists:
        """The history as a field of the user table."""
        ids = numbered(int(self.video.max(initial=-1)) + 1)
        return Lists(ids[self.video], self.offsets)


class Meetings:
    """How often each user met each author (a sparse matrix, read by pairs) and each tag in a history."""

    def __init__(self, history: History, videos: Videos) -> None:
        self._videos = videos
        pairs, counts = np.unique(self._pair(history.user, history.video), return_counts=True)
        self._pairs, self._counts = np.append(pairs, -1), np.append(counts, 0)
        self._tags = np.zeros((len(history.offsets) - 1, videos.tagged.shape[1]))
        np.add.at(self._tags, history.user, videos.tagged[history.video])

    def of_author(self, user: Ints, video: Ints) -> Ints:
        """Meetings with the video's author, of pairs that broadcast."""
        pairs = self._pair(user, video)
        at = np.searchsorted(self._pairs[:-1], pairs)
        return np.where(self._pairs[at] == pairs, self._counts[at], 0)

    def of_tags(self, user: Ints, video: Ints) -> Floats:
        """Meetings with the video's tags, summed, of pairs that broadcast."""
        return by_tag(self._tags, self._videos, user, video)

    def _pair(self, user: Ints, video: Ints) -> Ints:
        return user * len(self._videos.author_kind) + self._videos.author[video]


def by_tag(weights: Floats, videos: Videos, user: Ints, video: Ints) -> Floats:
    """Sum of the user's weights ``[users, tags]`` over the video's tags, of pairs that broadcast."""
    total = np.zeros(np.broadcast_shapes(user.shape, video.shape))
    for tag in range(weights.shape[1]):  # all tags of all pairs at once would be a large array
        total += weights[user, tag] * videos.tagged[video, tag]
    return total


def draw_histories(
    config: SyntheticConfig, taste: Taste, users: Users, videos: Videos
) -> tuple[History, History]:
    """What each user watched, chosen by taste and much of it by a few authors; and what of it was liked."""
    random, user = config.stream("histories"), np.arange(len(users))[:, None]
    pool = random.choice(len(videos), (len(users), 6 * config.history), p=videos.popularity)
    sought = FOLLOWED * config.history // 2
    pool[:, :sought] = _same_author(videos.author, pool[:, -1 - np.arange(sought) % FOLLOWED], random)
    group = taste.of(users.age[user], users.region[user], videos.category[pool])
    liking = 0.8 * group + 2.0 * by_tag(users.favourite, videos, user, pool) + random.gumbel(size=pool.shape)
    liking[repeats(pool)] = -np.inf
    chosen = np.argpartition(-liking, config.history - 1, axis=1)[:, : config.history]
    watched = random.permuted(np.take_along_axis(pool, chosen, axis=1), axis=1)
    length = random.binomial(config.history, np.array([0.35, 0.6, 0.8, 0.95])[users.activity])
    length[random.random(len(users)) < NEWCOMERS] = 0
    kept = (np.arange(config.history) < length[:, None]) & ~repeats(watched)
    liked = random.random(watched.shape) < 1 / (1 + np.exp(1.2 - 0.8 * videos.substance[watched]))
    return History.of(watched, kept), History.of(watched, kept & liked)


def _same_author(author: Ints, videos: Ints, random: np.random.Generator) -> Ints:
    """For each video of an array, a random one by the same author."""
    by_author = np.argsort(author, kind="stable")
    videos_each = np.bincount(author)
    first = np.cumsum(videos_each) - videos_each
    chosen = author[videos]
    at: Ints = first[chosen] + (random.random(videos.shape) * videos_each[chosen]).astype(np.int64)
    return by_author[at]


def repeats(values: Ints) -> Flags:
    """Where a row of ``[n, k]`` has a value for the second time or more."""
    order = np.argsort(values, axis=1, kind="stable")
    inside = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, dtype=bool)
    again[:, 1:] = inside[:, 1:] == inside[:, :-1]
    found = np.empty_like(again)
    np.put_along_axis(found, order, again, axis=1)
    return found
