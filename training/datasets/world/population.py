"""The people and the videos of the synthetic world.

Each part is drawn from a stream of its own: more users leave the videos as they are. What a table shows is
kept beside what is true: a length or a fan count can be missing in the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Lists, Numbers, Strings, Texts, strings
from service.bundle.table import Table
from training.datasets.world.config import SyntheticConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

AGE_BANDS: Final = ("under_18", "18_24", "25_34", "35_44", "45_54", "55_64", "over_64")
DEVICES: Final = ("android", "ios", "tablet")
REGIONS: Final = ("north", "north_east", "east", "south_east", "south", "south_west", "west", "north_west")
ACTIVITIES: Final = ("low", "medium", "high", "full")
AUTHOR_KINDS: Final = ("person", "studio", "brand")
TAGS: Final = {
    "music": ("live", "cover", "dance"),
    "sport": ("football", "fitness", "outdoor"),
    "food": ("recipe", "street_food", "baking"),
    "travel": ("city", "nature", "road_trip"),
    "comedy": ("sketch", "pets", "prank"),
    "learning": ("science", "history", "diy"),
    "beauty": ("makeup", "fashion", "hair"),
    "gaming": ("speedrun", "esports", "retro"),
}
"""Tags of each category."""
CATEGORIES: Final = tuple(TAGS)
TAG_NAMES: Final = tuple(tag for tags in TAGS.values() for tag in tags)
_TAGS_EACH: Final = len(TAG_NAMES) // len(CATEGORIES)


@dataclass(frozen=True, slots=True, eq=False)
class Taste:
    """How the groups of users lean to the categories; logits before weighting, deviation about 1."""

    by_age: Floats  # [ages, categories]
    by_region: Floats  # [regions, categories]

    @staticmethod
    def draw(config: SyntheticConfig) -> Taste:
        """Leanings of a config's world."""
        random = config.stream("taste")
        by_age = 0.8 * random.standard_normal((len(AGE_BANDS), len(CATEGORIES)))
        return Taste(by_age, 0.6 * random.standard_normal((len(REGIONS), len(CATEGORIES))))

    def of(self, age: Ints, region: Ints, category: Ints) -> Floats:
        """How a group leans to a category; arrays that broadcast."""
        return self.by_age[age, category] + self.by_region[region, category]


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """Codes into the names above and numbers, ``[n]`` each; hidden traits where nothing else is said."""

    age: Ints
    region: Ints
    device: Ints
    activity: Ints
    fans: Floats
    fans_known: Flags
    favourite: Floats
    """[n, tags]: how much the user is after each tag; shows in the history only"""
    habit: Floats
    """standard normal: the user's readiness to act at all; shows nowhere"""
    latent: Floats
    """[n, 4], standard normal; shows nowhere"""
    hidden_taste: Floats
    """[n, categories], standard normal; shows nowhere, the history included"""
    pace: Floats
    """requests relative to other users'"""

    def __len__(self) -> int:
        return len(self.age)

    @staticmethod
    def draw(config: SyntheticConfig, taste: Taste) -> Users:
        """Users of a config's world."""
        random, n = config.stream("users"), config.users
        age = random.choice(len(AGE_BANDS), n, p=[0.08, 0.24, 0.27, 0.18, 0.12, 0.07, 0.04])
        region = random.choice(len(REGIONS), n, p=[0.2, 0.1, 0.16, 0.12, 0.15, 0.1, 0.1, 0.07])
        activity = random.choice(len(ACTIVITIES), n, p=[0.3, 0.35, 0.22, 0.13])
        group = taste.by_age[age] + taste.by_region[region]
        wanted = 0.8 * np.repeat(group, _TAGS_EACH, axis=1) + random.gumbel(size=(n, len(TAG_NAMES)))
        favourite = np.zeros_like(wanted)
        for rank, strength in enumerate((1.0, 0.8, 0.6)):
            favourite[np.arange(n), np.argsort(-wanted, axis=1)[:, rank]] = strength
        return Users(
            age=age,
            region=region,
            device=np.where(random.random(n) < 0.08, 2, random.binomial(1, 0.25 + 0.04 * age)),
            activity=activity,
            fans=np.floor(np.exp(3.0 + 0.5 * activity + 1.3 * random.standard_normal(n))),
            fans_known=random.random(n) >= config.missing,
            favourite=favourite,
            habit=random.standard_normal(n),
            latent=random.standard_normal((n, 4)),
            hidden_taste=config.stream("hidden_taste").standard_normal((n, len(CATEGORIES))),
            pace=2.0**activity * random.gamma(4.0, 0.25, n),
        )

    def table(self, watched: Lists, liked: Lists) -> Table:
        """What is known of the users, by id, with what they watched and liked before the log."""
        columns: dict[str, Column] = {
            "age_band": _named(AGE_BANDS, self.age),
            "region": _named(REGIONS, self.region),
            "device": _named(DEVICES, self.device),
            "activity": _named(ACTIVITIES, self.activity),
            "fans": Numbers(np.where(self.fans_known, self.fans, np.nan)),
            "watched": watched,
            "liked": liked,
        }
        return Table("user", [numbered(len(self))], columns)


@dataclass(frozen=True, slots=True, eq=False)
class Videos:
    """Codes into the names above and numbers, ``[m]`` each; hidden traits where nothing else is said."""

    author: Ints
    category: Ints
    tagged: Flags
    """[m, tags]"""
    length: Floats
    """seconds, as it truly is"""
    listed_length: Floats
    """seconds, as the catalogue has it: NaN or 0 for some"""
    age: Floats
    """days since upload when the log starts"""
    price: Floats
    """of what the video advertises"""
    appeal: Floats
    """standard normal: what makes people click; shows through the author and `click_rate`"""
    substance: Floats
    """standard normal: what makes them stay and like; shows through the author's fans and `like_rate`"""
    latent: Floats
    """[m, 4], standard normal; shows nowhere"""
    shown: Floats
    """impressions before the log starts"""
    click_rate: Floats
    """of `shown`, smoothed"""
    like_rate: Floats
    """of those clicks, smoothed"""
    author_kind: Ints
    """[authors]"""
    author_fans: Floats
    """[authors]"""

    def __len__(self) -> int:
        return len(self.author)

    @property
    def popularity(self) -> Floats:
        """Chance of being a candidate, sums to 1."""
        share = np.sqrt(self.shown + 1)
        chance: Floats = share / share.sum()
        return chance

    @staticmethod
    def draw(config: SyntheticConfig) -> Videos:
        """Videos and authors of a config's world."""
        random, m, a = config.stream("videos"), config.videos, config.authors
        renown = 1 / np.arange(1, a + 1) ** 0.6
        author = random.choice(a, m, p=renown / renown.sum())
        home = random.integers(len(CATEGORIES), size=a)
        category = np.where(random.random(m) < 0.75, home[author], random.integers(len(CATEGORIES), size=m))
        skill, depth = random.standard_normal((2, a))
        appeal = 0.7 * skill[author] + 0.714 * random.standard_normal(m)
        substance = 0.7 * depth[author] + 0.714 * random.standard_normal(m)
        usual = np.array([3.4, 3.2, 3.5, 3.7, 2.7, 4.1, 3.3, 3.8])  # log seconds, by category
        length = np.clip(np.exp(usual[category] + 0.6 * random.standard_normal(m)), 3, 600).round(1)
        unlisted = np.where(random.random(m) < 0.5, 0.0, np.nan)
        age = np.ceil(random.exponential(40.0, m))
        reach = np.exp(8.0 + 1.0 * random.standard_normal(m) + 0.2 * appeal)
        shown = (reach * np.minimum(1, age / 10)).astype(np.int64)
        clicks = random.binomial(shown, 1 / (1 + np.exp(1.0 - 0.6 * appeal)))
        likes = random.binomial(clicks, 1 / (1 + np.exp(2.0 - 0.6 * substance)))
        return Videos(
            author=author,
            category=category,
            tagged=_draw_tags(category, random),
            length=length,
            listed_length=np.where(random.random(m) < config.missing, unlisted, length),
            age=age,
            price=np.exp(3.0 + 0.8 * random.standard_normal(m)).round(2),
            appeal=appeal,
            substance=substance,
            latent=random.standard_normal((m, 4)),
            shown=shown.astype(np.float64),
            click_rate=(clicks + 27) / (shown + 100),
            like_rate=(likes + 6) / (clicks + 50),
            author_kind=random.choice(len(AUTHOR_KINDS), a, p=[0.7, 0.2, 0.1]),
            author_fans=np.floor(np.exp(7.0 + 0.9 * depth + 0.6 * random.standard_normal(a))),
        )

    def table(self) -> Table:
        """What is known of the videos, by id; counts and rates are those of the time before the log."""
        video, tag = np.nonzero(self.tagged)
        offsets = np.searchsorted(video, np.arange(len(self) + 1)).astype(np.int64)
        columns: dict[str, Column] = {
            "author_id": Texts(numbered(len(self.author_kind))[self.author]),
            "category": _named(CATEGORIES, self.category),
            "tags": Lists(strings(TAG_NAMES)[tag], offsets),
            "length_s": Numbers(self.listed_length),
            "age_days": Numbers(self.age),
            "price": Numbers(self.price),
            "shown": Numbers(self.shown),
            "click_rate": Numbers(self.click_rate),
            "like_rate": Numbers(self.like_rate),
        }
        return Table("item", [numbered(len(self))], columns)

    def author_table(self) -> Table:
        """What is known of the authors, by id."""
        columns: dict[str, Column] = {
            "kind": _named(AUTHOR_KINDS, self.author_kind),
            "fans": Numbers(self.author_fans),
        }
        return Table("author", [numbered(len(self.author_kind))], columns)


def _draw_tags(category: Ints, random: np.random.Generator) -> Flags:
    """One tag of the video's category, often a second, sometimes one of any category: flags ``[m, tags]``."""
    rows, m = np.arange(len(category)), len(category)
    tagged = np.zeros((m, len(TAG_NAMES)), dtype=bool)
    tagged[rows, _TAGS_EACH * category + random.integers(_TAGS_EACH, size=m)] = True
    second = _TAGS_EACH * category + random.integers(_TAGS_EACH, size=m)
    tagged[rows, second] |= random.random(m) < 0.6
    tagged[rows, random.integers(len(TAG_NAMES), size=m)] |= random.random(m) < 0.3
    return tagged


def numbered(n: int) -> Strings:
    """The ids ``"0"`` to ``str(n - 1)``."""
    return strings(map(str, range(n)))


def _named(names: tuple[str, ...], codes: Ints) -> Texts:
    return Texts(strings(names)[codes])
