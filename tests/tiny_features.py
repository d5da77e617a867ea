"""What the tiny bundle knows: features of every kind, 30 users and 200 items, and requests to try.

Users are named "0" to "29", items "0" to "199"; everything is the same in every run.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from service.bundle.columns import Column, Lists, Numbers, Texts, Vectors, strings
from service.bundle.encoder import Encoder
from service.bundle.golden import GoldenRequest
from service.bundle.kinds import Embedded, Fitted, Product, Scale, VocabularySpec, is_bucketed
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from service.bundle.vocabulary import AnyVocabulary, HashedVocabulary, PairVocabulary, Vocabulary

USERS, ITEMS = 30, 200
AUTHORS = strings([*(f"a{n}" for n in range(19)), None])
TABS = strings(["feed", "search", "follow"])
CITIES = strings(["łódź", "Paris", "東京", "", None])
TAGS = strings(f"t{n}" for n in range(8))

KEYS = {
    "author_stats": ("item.author",),
    "user_author": ("user.user_id", "item.author"),
    "tab_city": ("context.tab", "user.city"),
}
FEATURES: tuple[dict[str, Any], ...] = (
    {"kind": "categorical", "name": "user", "source": "user.user_id"},
    {"kind": "categorical", "name": "city", "source": "user.city", "hash_buckets": 5},
    {"kind": "numeric", "name": "age", "source": "user.age"},
    {"kind": "vector", "name": "taste", "source": "user.taste", "width": 3},
    {"kind": "multi", "name": "likes", "source": "user.likes", "share": "tags", "max_length": 4},
    {"kind": "sequence", "name": "recent", "source": "user.recent", "share": "video", "max_length": 6},
    {"kind": "categorical", "name": "tab", "source": "context.tab"},
    {"kind": "numeric", "name": "hour", "source": "context.hour", "buckets": 4},
    {"kind": "numeric", "name": "position", "source": "context.position", "train_only": True, "serving": 2},
    {"kind": "numeric", "name": "tab_city_rate", "source": "tab_city.rate"},
    {"kind": "product", "name": "tab_hour", "of": ("tab", "hour")},
    {"kind": "categorical", "name": "video", "source": "item.item_id"},
    {"kind": "categorical", "name": "author", "source": "item.author"},
    {"kind": "multi", "name": "tags", "source": "item.tags", "max_length": 3},
    {"kind": "numeric", "name": "length", "source": "item.length", "transform": "log1p", "buckets": 5},
    {"kind": "numeric", "name": "length_z", "source": "item.length", "transform": "log1p"},
    {"kind": "vector", "name": "cover", "source": "item.cover", "width": 2},
    {"kind": "numeric", "name": "author_rate", "source": "author_stats.rate"},
    {"kind": "categorical", "name": "author_group", "source": "author_stats.group"},
    {"kind": "product", "name": "author_length", "of": ("author", "length")},
    {"kind": "numeric", "name": "clicks_1h", "source": "item.clicks_1h", "transform": "log1p", "live": True},
    {"kind": "numeric", "name": "user_author_rate", "source": "user_author.rate"},
    {"kind": "categorical", "name": "user_author_last", "source": "user_author.last", "share": "tab"},
    {"kind": "match", "name": "seen", "item": "video", "sequence": "recent"},
    {"kind": "match", "name": "author_seen", "item": "author", "sequence": "recent"},
    {"kind": "match", "name": "tags_liked", "item": "tags", "sequence": "likes"},
    {"kind": "product", "name": "tab_length", "of": ("tab", "length")},
)
CROSS = (
    "clicks_1h",
    "user_author_rate",
    "user_author_last",
    "seen",
    "author_seen",
    "tags_liked",
    "tab_length",
)
"""all features of the cross side: a bundle without them has graphs without cross inputs"""

EDGES = {"hour": (6.0, 12.0, 18.0), "length": (1.0, 2.0, 3.0, 4.0)}
SCALES = {
    "age": Scale(mean=35, deviation=12),
    "length_z": Scale(mean=2.5, deviation=1.2),
    "user_author_rate": Scale(mean=0.5, deviation=0.3),
}


def tiny_tables() -> dict[str, Table]:
    """Users, items and what is known of authors, and of users or cities together with something else."""
    rng = np.random.default_rng(7)
    ids = strings(map(str, range(ITEMS)))
    users: dict[str, Column] = {
        "city": Texts(rng.choice(CITIES, USERS)),
        "age": Numbers(np.where(rng.random(USERS) < 0.1, np.nan, rng.integers(14, 80, USERS))),
        "taste": Vectors(_with_gaps(rng, USERS, 3)),
        "likes": Lists.of(rng.choice(TAGS, rng.integers(0, 6)) for _ in range(USERS)),
        "recent": Lists.of(rng.choice(ids, rng.integers(0, 10)) for _ in range(USERS)),
    }
    items: dict[str, Column] = {
        "author": Texts(rng.choice(AUTHORS, ITEMS)),
        "tags": Lists.of(rng.choice(TAGS, rng.integers(0, 5), replace=False) for _ in range(ITEMS)),
        "length": Numbers(np.where(rng.random(ITEMS) < 0.1, np.nan, rng.exponential(20, ITEMS))),
        "cover": Vectors(_with_gaps(rng, ITEMS, 2)),
        "clicks_1h": Numbers(rng.poisson(5, ITEMS).astype(np.float64)),
    }
    known = AUTHORS[:15]
    pairs = [(str(user), author) for user in range(20) for author in known if rng.random() < 0.4]
    places = [(tab, city) for tab in TABS for city in CITIES[:3]]
    return {
        "user": Table("user", [strings(map(str, range(USERS)))], users),
        "item": Table("item", [ids], items),
        "author_stats": Table(
            "author_stats",
            [known],
            {"rate": Numbers(rng.random(len(known))), "group": Texts(rng.choice(strings("xyz"), len(known)))},
        ),
        "user_author": Table(
            "user_author",
            [strings(user for user, _ in pairs), strings(author for _, author in pairs)],
            {"rate": Numbers(rng.random(len(pairs))), "last": Texts(rng.choice(TABS, len(pairs)))},
        ),
        "tab_city": Table(
            "tab_city",
            [strings(tab for tab, _ in places), strings(city for _, city in places)],
            {"rate": Numbers(rng.random(len(places)))},
        ),
    }


def tiny_vocabularies(tables: dict[str, Table]) -> dict[str, AnyVocabulary]:
    """Some users, items and authors are left out, as a minimum count would do."""
    tabs, hours, lengths = len(TABS) + 1, len(EDGES["hour"]) + 2, len(EDGES["length"]) + 2
    return {
        "user": Vocabulary(tables["user"].keys[0][:25]),
        "city": HashedVocabulary(5, seed=1),
        "tab": Vocabulary(TABS),
        "tab_hour": _every_pair(tabs, hours),
        "video": Vocabulary(tables["item"].keys[0][10:]),
        "author": Vocabulary(AUTHORS[:17]),
        "tags": Vocabulary(TAGS[:7]),
        "author_group": Vocabulary(strings("xy")),
        "author_length": _every_pair(18, lengths, step=3),
        "tab_length": _every_pair(tabs, lengths, step=2),
    }


def tiny_encoder(leave_out: Collection[str] = ()) -> Encoder:
    """An encoder of the tiny world, without some of its features."""
    tables = tiny_tables()
    vocabularies = tiny_vocabularies(tables)
    declared = FeatureSchema.model_validate(
        {"features": [feature for feature in FEATURES if feature["name"] not in leave_out], "tables": KEYS}
    )
    sizes = {name: len(vocabulary) for name, vocabulary in vocabularies.items()}
    sizes |= {name: len(edges) + 2 for name, edges in EDGES.items()}
    used = {
        declared.vocabulary(f)
        for f in declared.features
        if isinstance(f, Embedded | Product) or is_bucketed(f)
    }
    specs = {
        name: VocabularySpec(rows=size, hash_seed=1 if name == "city" else None)
        for name, size in sizes.items()
        if name in used
    }
    fitted = Fitted(vocabularies=specs, scales=SCALES, edges=EDGES)
    return Encoder(declared.model_copy(update={"fitted": fitted}), vocabularies, tables)


def tiny_requests() -> tuple[GoldenRequest, ...]:
    """Requests that show every way: known and unknown, what beats a table, what comes twice."""
    context = {"tab": "feed", "hour": 20, "position": 7}
    return (
        GoldenRequest(user_id="3", context=context, item_ids=tuple(map(str, range(0, 60, 3)))),
        GoldenRequest(user_id="28", context={"tab": "nowhere", "hour": None}, item_ids=("7",)),
        GoldenRequest(user_id=None, item_ids=("1", "1", "no such item", "2")),
        GoldenRequest(
            user_id="no such user",
            user={"age": 21, "recent": ["11", "12", "13"], "city": "Paris", "taste": [1, -1, 0.5]},
            context=context,
            item_ids=("11", "50", "51", "another"),
            inline={
                1: {"clicks_1h": 400},
                2: {"author": "a3", "length": 3.5, "tags": ["t1", "t2"]},
                3: {"author": "a1", "cover": [0.5, 0.5], "user_author.rate": 0.9},
            },
        ),
    )


def _with_gaps(rng: np.random.Generator, n: int, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = rng.normal(0, 1, (n, width)).astype(np.float32)
    vectors[rng.random(n) < 0.1] = np.nan
    return vectors


def _every_pair(left: int, right: int, step: int = 1) -> PairVocabulary:
    """Every `step`-th pair of known rows."""
    pairs = np.array([row * right + other for row in range(1, left) for other in range(1, right)], np.int64)
    return PairVocabulary(pairs[::step], right)
