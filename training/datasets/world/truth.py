"""What truly happens in the synthetic world: the probability of every event for any user, video and moment.

Logits are weighted sums of terms. Most terms are what features tell, some of them a product of the user's and
the video's side, and the tasks pull apart: a long video is finished less and liked more, bait is clicked more
and watched less. A small part, habit and chemistry, shows nowhere; nor does the hidden taste of a config that
asks for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.bundle.columns import Column, Value
from service.bundle.errors import FeatureError
from training.datasets.world.config import SyntheticConfig
from training.datasets.world.exposure import Exposure
from training.datasets.world.histories import Meetings, draw_histories
from training.datasets.world.moments import NETWORKS, TABS, Moments
from training.datasets.world.population import (
    AGE_BANDS,
    AUTHOR_KINDS,
    CATEGORIES,
    DEVICES,
    Floats,
    Ints,
    Taste,
    Users,
    Videos,
)
from training.datasets.world.rates import probability, solve_shifts

# fmt: off
WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    "click": {
        "": -0.75, "group": 0.45, "interest": 0.55, "loyalty": 0.5, "appeal": 0.5, "bait": 0.15,
        "position": -0.35, "discover": -0.25, "follow": 0.3, "rhythm": 0.3, "night": 0.15,
        "fresh": 0.3, "length": -0.1, "habit": 1.0, "chemistry": 1.0, "hidden_taste": 1.0,
    },
    "valid_view": {
        "": -0.8, "group": 0.4, "interest": 0.55, "loyalty": 0.4, "appeal": 0.2, "substance": 0.3,
        "bait": -0.35, "discover": -0.15, "rhythm": 0.2, "night": 0.2, "length": -0.3,
        "stalling": -0.5, "habit": 0.7, "chemistry": 1.0,
    },
    "completion_given_valid_view": {
        "": 0.6, "group": 0.2, "interest": 0.2, "substance": 0.25, "bait": -0.3, "length": -0.7,
        "stalling": -0.3, "night": 0.1, "chemistry": 0.5,
    },
    "like_given_valid_view": {
        "": -2.3, "interest": 0.2, "loyalty": 0.3, "fondness": 0.6, "substance": 0.5,
        "length": 0.35, "young": 0.25, "activity": 0.2, "habit": 0.7, "chemistry": 0.5,
    },
    "share_given_valid_view": {
        "": -3.3, "interest": 0.2, "substance": 0.3, "spread": 0.5, "reach": 0.3, "length": -0.3,
        "wifi": -0.2, "young": 0.2, "habit": 0.5, "chemistry": 0.5,
    },
    "comment_given_valid_view": {
        "": -3.6, "interest": 0.2, "fondness": 0.4, "talk": 0.5, "bait": 0.3, "activity": 0.4,
        "length": 0.2, "night": 0.2, "habit": 0.5, "chemistry": 0.5,
    },
    "cart_given_click": {
        "": -2.25, "need": 0.5, "interest": 0.2, "price": -0.2, "purse": 0.3, "substance": 0.2,
        "brand": 0.4, "night": -0.2, "bait": -0.2, "chemistry": 0.5, "hidden_taste": 1.0,
    },
    "buy_given_cart": {
        "": -1.35, "price": -0.4, "purse": 0.3, "ios": 0.4, "loyalty": 0.25, "wifi": 0.2,
        "chemistry": 0.5,
    },
}
# fmt: on
"""Logit of each event, given the one it needs: a weight for each term; the term ``""`` is 1."""

SKIPPED: Final = 0.08
"""Mean completion of a view that is no valid view."""
SAMPLE: Final = 50_000
"""Impressions over which a world has the rates that its config asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class Leanings:
    """What the groups do beside watching by taste: tables drawn once a world, of deviation about 1."""

    rhythm: Floats  # [ages, 4 quarters of the day]: when the age is awake
    need: Floats  # [ages, categories]: what the age buys
    purse: Floats  # [ages]: how little the age minds a price
    spread: Floats  # [categories]: what is passed on
    talk: Floats  # [categories]: what is argued about

    @staticmethod
    def draw(config: SyntheticConfig) -> Leanings:
        """The leanings of a config's world."""
        random, ages, categories = config.stream("leanings"), len(AGE_BANDS), len(CATEGORIES)
        return Leanings(
            rhythm=random.standard_normal((ages, 4)),
            need=0.8 * random.standard_normal(categories) + 0.6 * random.standard_normal((ages, categories)),
            purse=np.linspace(-1.2, 1.2, ages),
            spread=random.permutation(np.linspace(-1.4, 1.4, categories)),
            talk=random.permutation(np.linspace(-1.4, 1.4, categories)),
        )


class World:
    """Users, videos and the truth about them. The same config makes the same world.

    Attributes:
        tables: ``user``, ``item`` and ``author``, as of the moment before the log starts.
    """

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.taste = Taste.draw(config)
        self.users = Users.draw(config, self.taste)
        self.videos = Videos.draw(config)
        self._leanings = Leanings.draw(config)
        watched, liked = draw_histories(config, self.taste, self.users, self.videos)
        self._watched = Meetings(watched, self.videos)
        self._liked = Meetings(liked, self.videos)
        users = self.users.table(watched.column(), liked.column())
        tables = (users, self.videos.table(), self.videos.author_table())
        self.tables = {table.name: table for table in tables}
        self._shifts = self._solved()

    def probabilities(
        self,
        user_ids: Iterable[str],
        item_ids: Iterable[str],
        context: Mapping[str, Column | Value],
        hidden_taste: float | None = None,
    ) -> dict[str, Floats]:
        """The truth about any pairs of users and videos, logged or not.

        Args:
            user_ids: ``[n]``, or ``[1]``: one user for all.
            item_ids: ``[n]``.
            context: hour, tab, network and position, columns ``[n]`` or single values; position is 0 unless
                given, as in serving.
            hidden_taste: of all, in place of their own; a standard normal number.

        Returns:
            float64 ``[n]`` by event, as `Log.truth` has them.

        Raises:
            FeatureError: an id or a context value that this world does not know.
        """
        video = self._rows("item", item_ids)
        user = np.broadcast_to(self._rows("user", user_ids), video.shape)
        return self.truth(user, video, Moments.of(context, len(video)), hidden_taste)

    def truth(
        self, user: Ints, video: Ints, moments: Moments, hidden_taste: float | None = None
    ) -> dict[str, Floats]:
        """As `probabilities`, of users and videos ``[n]`` counted from 0."""
        logits = self._logits(user, video, moments, hidden_taste)
        truth = {event: probability(logit + self._shifts.get(event, 0.0)) for event, logit in logits.items()}
        truth["cart"] = truth["click"] * truth["cart_given_click"]
        truth["buy_given_click"] = truth["cart_given_click"] * truth["buy_given_cart"]
        truth["buy"] = truth["click"] * truth["buy_given_click"]
        for event in ("like", "share", "comment"):
            truth[event] = truth["valid_view"] * truth[f"{event}_given_valid_view"]
        watched = truth["valid_view"] * truth["completion_given_valid_view"]
        truth["completion"] = watched + (1 - truth["valid_view"]) * SKIPPED
        truth["watch_time"] = truth["completion"] * self.videos.length[video]
        return truth

    def exposure(self) -> Exposure:
        """Who is shown what in the log, in order of time."""
        return Exposure.draw(self.config, self.users, self.videos, self.affinity)

    def affinity(self, user: Ints, video: Ints) -> dict[str, Floats]:
        """The terms that say how user and video suit each other, of pairs that broadcast."""
        users, videos = self.users, self.videos
        return {
            "group": self.taste.of(users.age[user], users.region[user], videos.category[video]),
            "interest": np.log1p(self._watched.of_tags(user, video)) - 1.5,
            "loyalty": np.log1p(self._watched.of_author(user, video)),
        }

    def _solved(self) -> dict[str, float]:
        """Shifts of the logits to the config's rates, over impressions such as a log of this world has."""
        if self.config.click_rate is None and self.config.conversion_rate is None:
            return {}
        sample = self.config.model_copy(update={"impressions": SAMPLE, "days": 1})
        shown = Exposure.draw(sample, self.users, self.videos, self.affinity)
        return solve_shifts(self.config, self._logits(shown.user, shown.video, shown.moments))

    def _logits(
        self, user: Ints, video: Ints, moments: Moments, hidden_taste: float | None = None
    ) -> dict[str, Floats]:
        """Logits of the events of `WEIGHTS`, ``[n]`` each, before they are shifted."""
        terms = self._terms(user, video, moments)
        if hidden_taste is not None:
            terms["hidden_taste"] = np.full(len(user), self.config.hidden_taste * hidden_taste)
        return {
            event: np.add.reduce([weight * terms[term] for term, weight in weights.items()])
            for event, weights in WEIGHTS.items()
        }

    def _terms(self, user: Ints, video: Ints, moments: Moments) -> dict[str, Floats]:
        """Every term of `WEIGHTS`, ``[n]``, most of them with mean near 0 and deviation near 1."""
        users, videos, leanings = self.users, self.videos, self._leanings
        age, category = users.age[user], videos.category[video]
        appeal, substance = videos.appeal[video], videos.substance[video]
        length = (np.log(videos.length[video]) - 3.5) / 0.7
        price = (np.log(videos.price[video]) - 3.0) / 0.8
        chemistry = np.einsum("nd,nd->n", users.latent[user], videos.latent[video]) / 2
        return {
            "": np.ones(len(user)),
            **self.affinity(user, video),
            "fondness": np.log1p(self._liked.of_author(user, video)),
            "appeal": appeal,
            "substance": substance,
            "bait": np.maximum(appeal - substance, 0),
            "length": length,
            "stalling": np.maximum(length, 0) * (moments.network == NETWORKS.index("4g")),
            "fresh": np.exp(-videos.age[video] / 20),
            "position": np.log2(1 + moments.position),
            "discover": _flag(moments.tab, TABS, "discover"),
            "follow": _flag(moments.tab, TABS, "follow"),
            "wifi": _flag(moments.network, NETWORKS, "wifi"),
            "rhythm": leanings.rhythm[age, moments.hour // 6],
            "night": np.cos((moments.hour - 22) / 24 * 2 * np.pi),
            "young": (2.5 - age) / 1.5,
            "ios": _flag(users.device[user], DEVICES, "ios"),
            "activity": users.activity[user] - 1.0,
            "reach": (np.log1p(users.fans[user]) - 3.5) / 1.4,
            "spread": leanings.spread[category],
            "talk": leanings.talk[category],
            "need": leanings.need[age, category],
            "price": price,
            "purse": leanings.purse[age] * price,
            "brand": _flag(videos.author_kind[videos.author[video]], AUTHOR_KINDS, "brand"),
            "habit": self.config.latent * users.habit[user],
            "chemistry": self.config.latent * chemistry,
            "hidden_taste": self.config.hidden_taste * users.hidden_taste[user, category],
        }

    def _rows(self, table: str, ids: Iterable[str]) -> Ints:
        """Rows of the ids, from 0."""
        listed = list(ids)
        rows = self.tables[table].rows(listed).astype(np.int64) - 1
        if (rows < 0).any():
            stranger = listed[int(np.argmin(rows))]
            raise FeatureError(f"{table}.{table}_id", f"{stranger!r} is not of this world")
        return rows


def _flag(codes: Ints, names: tuple[str, ...], name: str) -> Floats:
    flag: Floats = (codes == names.index(name)).astype(np.float64)
    return flag
