"""Features looked up by user and item together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bundle.columns import Column, Lists, Numbers, Texts, Value, strings
from service.bundle.encoder import Encoder
from service.bundle.schema import FeatureSchema, Side
from service.bundle.table import Table
from tests.service.bundle.reference import Reference
from tests.tiny_features import FEATURES, KEYS, TABS, TAGS, tiny_encoder

TINY = tiny_encoder()
KNOWN = 50
LOOKED_UP: tuple[dict[str, Any], ...] = (
    {"kind": "numeric", "name": "rate", "source": "user_author.rate"},
    {"kind": "categorical", "name": "last", "source": "user_author.last", "share": "tab"},
    {"kind": "numeric", "name": "log_rate", "source": "user_author.rate", "transform": "log1p"},
    {"kind": "numeric", "name": "plays", "source": "play.plays"},
    {"kind": "categorical", "name": "from", "source": "play.from", "share": "tab"},
    {"kind": "numeric", "name": "log_plays", "source": "play.plays", "transform": "log1p"},
    {"kind": "categorical", "name": "from_again", "source": "play.from", "share": "tab"},
    {"kind": "multi", "name": "marked", "source": "play.tags", "share": "tags", "max_length": 2},
)


def play() -> Table:
    """What some users played before."""
    at = np.arange(KNOWN)
    keys = [strings(map(str, (at % 7).tolist())), strings(map(str, at.tolist()))]
    columns: dict[str, Column] = {
        "plays": Numbers(at.astype(np.float64)),
        "from": Texts(TABS[at % len(TABS)]),
        "tags": Lists.of(TAGS[: one % 3] for one in at.tolist()),
    }
    return Table("play", keys, columns)


def encoder(looked_up: Sequence[dict[str, Any]]) -> Encoder:
    """The tiny one with more features, in some order."""
    keys = KEYS | {"play": ("user.user_id", "item.item_id")}
    schema = FeatureSchema.model_validate({"features": [*looked_up, *FEATURES], "tables": keys})
    fitted = schema.model_copy(update={"fitted": TINY.schema.fitted})
    return Encoder(fitted, TINY.vocabularies, {**TINY.tables, "play": play()})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(LOOKED_UP), unique_by=lambda f: f["name"]), st.integers(0, 8))
def test_in_whatever_order_they_are_declared(looked_up: Sequence[dict[str, Any]], user: int) -> None:
    """Each has the slots that a loop makes of its table's row; what a candidate brings beats that."""
    ours, ids = encoder(looked_up), ["0", "7", "8", "15", "60", "nowhere"]
    brought: dict[str, Value] = {"user_author.rate": 0.9, "play.from": "follow"}
    cross = ours.request(str(user), {}, {}, ids, {1: brought}).cross
    reference = Reference(ours)
    for at, item in enumerate(ids):
        index, value = reference.row(str(user), item, brought if at == 1 else {})[Side.CROSS]
        assert cross.index[at].tolist() == index
        np.testing.assert_allclose(cross.value[at], value, rtol=1e-6, atol=1e-7)
