"""A small log that has something of every kind in it, and configs to train on it.

Users are named "u0" to "u29", items "i0" to "i49"; an hour of the day, a tab and a position hold the context.
Whether a user clicks depends on features of every side, and `Log.truth` knows how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.columns import Column, Lists, Numbers, Texts, Vectors, strings
from service.bundle.encoder import Encoder
from service.bundle.manifest import Manifest
from service.bundle.table import Table
from training.config import TrainingConfig, parse_config
from training.examples import Examples, encode, model_inputs, split_log
from training.features import fit_features
from training.fit import Epoch, fit
from training.impressions import Impressions, Log
from training.models import MultiTaskModel, build
from training.trained import Trained

USERS, ITEMS = 30, 50
DAYS = (20240429, 20240430, 20240501, 20240502, 20240503, 20240504)
SPLIT = {"train_until": 20240502, "validate_until": "2024-05-03"}

TABLES = {"author_stats": ["item.author"], "user_author": ["user.user_id", "item.author"]}
PLAIN_FEATURES: tuple[dict[str, Any], ...] = (
    {"kind": "numeric", "name": "age", "source": "user.age"},
    {"kind": "numeric", "name": "length", "source": "item.length", "transform": "log1p"},
)
"""one number a side, no embedding and no cross"""
FEATURES: tuple[dict[str, Any], ...] = (
    *PLAIN_FEATURES,
    # 20,001 rows of 16 floats: an embedding table above the size that goes to weights.bin.
    {"kind": "categorical", "name": "user", "source": "user.user_id", "hash_buckets": 20_000},
    {"kind": "categorical", "name": "city", "source": "user.city"},
    {"kind": "vector", "name": "taste", "source": "user.taste", "width": 3},
    {"kind": "multi", "name": "liked", "source": "user.liked", "share": "tags", "max_length": 4},
    {"kind": "sequence", "name": "recent", "source": "user.recent", "share": "video", "max_length": 6},
    {"kind": "categorical", "name": "tab", "source": "context.tab"},
    {"kind": "numeric", "name": "hour", "source": "context.hour", "buckets": 4},
    {
        "kind": "categorical",
        "name": "position",
        "source": "context.position",
        "train_only": True,
        "serving": "0",
    },
    {"kind": "product", "name": "tab_hour", "of": ["tab", "hour"]},
    {"kind": "categorical", "name": "video", "source": "item.item_id", "min_count": 2},
    {"kind": "categorical", "name": "author", "source": "item.author"},
    {"kind": "categorical", "name": "topic", "source": "item.topic"},
    {"kind": "multi", "name": "tags", "source": "item.tags", "max_length": 3},
    {"kind": "numeric", "name": "length_bucket", "source": "item.length", "buckets": 5},
    {"kind": "vector", "name": "cover", "source": "item.cover", "width": 2},
    {"kind": "numeric", "name": "author_rate", "source": "author_stats.rate"},
    {"kind": "numeric", "name": "clicks_1h", "source": "item.clicks_1h", "transform": "log1p", "live": True},
    {"kind": "numeric", "name": "user_author_rate", "source": "user_author.rate"},
    {"kind": "match", "name": "seen", "item": "video", "sequence": "recent"},
    {"kind": "match", "name": "author_seen", "item": "author", "sequence": "recent"},
    {"kind": "match", "name": "tags_liked", "item": "tags", "sequence": "liked"},
    {"kind": "product", "name": "city_length", "of": ["city", "length_bucket"], "min_count": 3},
    {"kind": "product", "name": "city_topic", "of": ["city", "topic"]},
)
"""every kind, operation and flag of a schema"""

TASKS: tuple[dict[str, Any], ...] = (
    {"name": "click", "gain": 1.0},
    {"name": "like", "mask": "click", "weight": 0.5, "gain": 2.0},
    {
        "name": "watch",
        "kind": "regression",
        "label": "watch_s",
        "mask": "click",
        "transform": "log1p",
        "unit": "s",
    },
)
FUSION = {
    "groups": [
        {
            "factors": [
                {"task": "click"},
                {"item": "length", "transform": "log1p", "weight": 0.3, "default": 15},
            ]
        },
        {"weight": 0.2, "factors": [{"task": "like"}, {"task": "watch", "weight": 0.5, "offset": 1}]},
    ]
}
MMOE = {"name": "mmoe", "embedding": 16, "experts": 3, "expert_hidden": [16, 8], "tower_hidden": [8]}
SHARED_BOTTOM = {"name": "shared_bottom", "embedding": 16, "bottom_hidden": [16, 8], "tower_hidden": []}
TRAIN = {"epochs": 1, "batch_size": 256, "learning_rate": 0.01}

QUICK: dict[str, Any] = {
    "features": [
        feature
        for feature in FEATURES
        if feature["name"] in ("city", "tab", "position", "topic", "city_topic", "video")
    ],
    "tables": {},
    "tasks": TASKS[:2],
    "model": {"name": "mmoe", "embedding": 4, "experts": 2, "expert_hidden": [16], "tower_hidden": []},
    "train": {"epochs": 4, "batch_size": 128, "learning_rate": 0.02},
    "fusion": {"groups": [{"factors": [{"task": "click"}]}]},
}
"""sections of a config whose model learns what there is to learn in a fifth of a second"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a training run has made before it trains."""

    config: TrainingConfig
    parts: dict[str, Log]
    encoder: Encoder
    examples: dict[str, Examples]

    def model(self, seed: int = 0) -> MultiTaskModel:
        """A model with fresh weights."""
        torch.manual_seed(seed)
        tasks = [task.spec() for task in self.config.tasks]
        return build(self.config.model, model_inputs(self.encoder.schema), tasks)

    def fit(self, model: MultiTaskModel, seed: int = 0) -> list[Epoch]:
        """Train a model in place."""
        train, validate = self.examples["train"], self.examples["validate"]
        return fit(model, train, validate, self.config.tasks, self.config.train, seed, lambda *_: None)

    def trained(self, seed: int = 0) -> Trained:
        """A model trained as the config says."""
        model = self.model(seed)
        self.fit(model, seed)
        return Trained(model, self.encoder, self.config, seed, {}, self.parts["validate"].impressions)


@dataclass(frozen=True, slots=True)
class Exported:
    """A trained model and its bundle."""

    trained: Trained
    folder: Path
    manifest: Manifest


def prepare(log: Log, **sections: Any) -> Prepared:
    """Split, fitted and encoded, with the given sections of the config."""
    made = config(**sections)
    parts = split_log(log, made.split)
    encoder = fit_features(made.features, parts["train"])
    examples = {name: encode(encoder, part.impressions, made.tasks) for name, part in parts.items()}
    return Prepared(made, parts, encoder, examples)


def raw_config(**sections: Any) -> dict[str, Any]:
    """A whole config as TOML gives it, with the given sections in place of its own."""
    whole = {
        "dataset": {"name": "kuairand"},
        "split": SPLIT,
        "features": list(FEATURES),
        "tables": TABLES,
        "tasks": list(TASKS),
        "model": MMOE,
        "train": TRAIN,
        "fusion": FUSION,
    }
    return whole | sections


def config(**sections: Any) -> TrainingConfig:
    """`raw_config`, parsed; its dataset only stands in for `log`."""
    return parse_config(raw_config(**sections), "config")


def log(impressions: int = 1500, seed: int = 0) -> Log:
    """A log over `DAYS`, in order of time."""
    rng = np.random.default_rng(seed)
    tables = _tables(rng)
    users, items = rng.integers(0, USERS, impressions), rng.integers(0, ITEMS, impressions)
    hours, tabs = rng.integers(0, 24, impressions), rng.integers(0, 3, impressions)
    positions = rng.integers(0, 5, impressions)
    click = _sigmoid(
        1.2 * (users % 3 == items % 3) + 0.8 * (tabs == 1) - 0.3 * positions - 0.6 + 0.05 * (items - 25)
    )
    like_given_click = _sigmoid(0.1 * (users - 15) + 0.05 * (items - 25))
    clicked = rng.random(impressions) < click
    liked = clicked & (rng.random(impressions) < like_given_click)
    watched = np.where(clicked, rng.exponential(5.0 + 0.5 * items), 0.0)
    labels = {"click": clicked, "like": liked, "watch_s": watched}
    rows = Impressions(
        user_id=_names("u", users),
        item_id=_names("i", items),
        day=np.sort(rng.choice(DAYS, impressions)).astype(np.int32),
        context={
            "hour": Numbers(hours.astype(np.float64)),
            "tab": Texts(strings([("feed", "search", "follow")[tab] for tab in tabs])),
            "position": Texts(_names("", positions)),
        },
        labels={name: label.astype(np.float32) for name, label in labels.items()},
    )
    truth = {"click": click, "like_given_click": like_given_click, "like": click * like_given_click}
    return Log(rows, tables, truth)


def _tables(rng: np.random.Generator) -> dict[str, Table]:
    tags = np.array([f"t{n}" for n in range(8)])
    authors = np.arange(ITEMS) % 7
    users: dict[str, Column] = {
        "age": Numbers(np.where(np.arange(USERS) == 3, np.nan, rng.integers(14, 80, USERS))),
        "city": Texts(strings([None if user == 4 else f"city{user % 3}" for user in range(USERS)])),
        "taste": Vectors(rng.normal(size=(USERS, 3)).astype(np.float32)),
        "liked": Lists.of(rng.choice(tags, user % 6).tolist() for user in range(USERS)),
        "recent": Lists.of(_names("i", rng.integers(0, ITEMS, user % 9)) for user in range(USERS)),
    }
    items: dict[str, Column] = {
        "author": Texts(_names("a", authors)),
        "topic": Texts(_names("topic", np.arange(ITEMS) % 3)),
        "tags": Lists.of(rng.choice(tags, item % 4, replace=False).tolist() for item in range(ITEMS)),
        "length": Numbers(np.where(np.arange(ITEMS) == 5, np.nan, rng.exponential(20, ITEMS))),
        "cover": Vectors(rng.normal(size=(ITEMS, 2)).astype(np.float32)),
        "clicks_1h": Numbers(rng.poisson(5, ITEMS).astype(np.float64)),
    }
    pairs = [(user, author) for user in range(USERS) for author in range(7) if (user + author) % 2]
    pair_keys = [_names("u", [user for user, _ in pairs]), _names("a", [author for _, author in pairs])]
    return {
        "user": Table("user", [_names("u", range(USERS))], users),
        "item": Table("item", [_names("i", range(ITEMS))], items),
        "author_stats": Table("author_stats", [_names("a", range(6))], {"rate": Numbers(rng.random(6))}),
        "user_author": Table("user_author", pair_keys, {"rate": Numbers(rng.random(len(pairs)))}),
    }


def _names(prefix: str, numbers: Sequence[int] | NDArray[Any] | range) -> NDArray[np.object_]:
    return strings(f"{prefix}{number}" for number in numbers)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))
