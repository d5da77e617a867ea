"""Loading and closing a version beside requests: nothing keeps the GIL, and what cannot serve is refused."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from service.bundle import pieces, rows
from service.bundle.columns import Lists, Texts, strings
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.bundle.kinds import Fitted, VocabularySpec
from service.bundle.schema import FeatureSchema
from service.bundle.snapshot import read_table, read_vocabularies, write_table, write_vocabularies
from service.bundle.table import Table
from service.bundle.vocabulary import Vocabulary
from service.engine import EngineOptions
from service.model import Model, ModelOptions
from tests.tiny import write_tiny

PIECE = 512
"""in place of the service's own: every line is watched, which takes the longer the more the process holds"""
USERS, LISTED, ITEMS = 60, 25, 3 * PIECE
SCHEMA = FeatureSchema.model_validate(
    {
        "features": [
            {"kind": "categorical", "name": "video", "source": "item.item_id"},
            {"kind": "categorical", "name": "author", "source": "item.author"},
            {"kind": "sequence", "name": "recent", "source": "user.recent", "share": "video"},
        ]
    }
)


def write(folder: Path) -> None:
    """Tables and vocabularies of many values."""
    ids = strings(map(str, range(ITEMS)))
    drawn = ids[np.random.default_rng(0).integers(0, ITEMS, USERS * LISTED)]
    recent = Lists(drawn, np.arange(0, USERS * LISTED + 1, LISTED))
    write_table(folder / "items.npz", Table("item", [ids], {"author": Texts(ids)}))
    write_table(folder / "users.npz", Table("user", [strings(map(str, range(USERS)))], {"recent": recent}))
    write_vocabularies(folder / "vocabulary.npz", {"video": Vocabulary(ids), "author": Vocabulary(ids)})


def load(folder: Path) -> Encoder:
    """The encoder of what was written."""
    specs = {name: VocabularySpec(rows=ITEMS + 1) for name in ("video", "author")}
    schema = SCHEMA.model_copy(update={"fitted": Fitted(vocabularies=specs)})
    tables = {
        "user": read_table(folder / "users.npz", "user"),
        "item": read_table(folder / "items.npz", "item"),
    }
    return Encoder(schema, read_vocabularies(folder / "vocabulary.npz", schema), tables)


def most_objects_at_once(call: Callable[[], object]) -> int:
    """The most objects that are made, or freed, between two lines of Python: while nobody else can run."""
    most, before = 0, sys.getallocatedblocks()

    def watch(frame: FrameType, event: str, of: Any) -> Any:
        nonlocal most, before
        now = sys.getallocatedblocks()
        most, before = max(most, abs(now - before)), now
        return watch

    traced = sys.gettrace()
    sys.settrace(watch)
    try:
        call()
    finally:
        sys.settrace(traced)
    return most


def test_a_load_and_a_close_deal_with_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of Python makes or frees so many objects that another thread would wait for it."""
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    monkeypatch.setattr(rows, "PIECE", PIECE)
    write(tmp_path)
    loaded: list[Encoder] = []
    assert most_objects_at_once(lambda: loaded.append(load(tmp_path))) <= 2 * PIECE
    encoder = loaded.pop()
    assert encoder.request("3", {}, {}, ["7"], {}).user.index.shape == (1, 50)
    assert most_objects_at_once(encoder.close) <= 2 * PIECE
    before = sys.getallocatedblocks()
    del encoder
    assert before - sys.getallocatedblocks() <= 2 * PIECE


@pytest.mark.parametrize("name", ["author", "tags", "cover"])
def test_a_formula_that_reads_no_number_is_refused(tmp_path: Path, name: str) -> None:
    """When the bundle is loaded, and not with every request."""
    formula = FusionFormula.model_validate({"groups": [{"factors": [{"item": name, "default": 1.0}]}]})
    folder = write_tiny(tmp_path, "v1", alter=lambda made: made.model_copy(update={"fusion": formula})).folder
    options = ModelOptions(EngineOptions(provider="cpu", max_rows=64), max_batch_rows=64)
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(BundleError, match=f"{name}: unknown item attribute"),
    ):
        Model.load(folder, options, executor)
