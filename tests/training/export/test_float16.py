"""Bundles whose items' state is float16."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.bundle.columns import Numbers
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.manifest import HALF_TOLERANCE
from service.bundle.store import verify, versions
from service.bundle.table import Table
from service.engine import Engine, EngineOptions
from service.model import Model, ModelOptions
from tests.training import worlds
from tests.training.export.again import export_again
from tests.training.worlds import Exported
from training.export import export, parity
from training.export.parity import PARITY_ROWS, check_parity, written_encoder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle with float16 state, one feature of which is a number as it comes."""
    length = {"kind": "numeric", "name": "length", "source": "item.length"}
    sections = {**worlds.QUICK, "features": [*worlds.QUICK["features"], length]}
    trained = worlds.prepare(worlds.log(600), **sections, export={"state": "float16"}).trained()
    folder = export(trained, tmp_path_factory.mktemp("half"), "v1")
    return Exported(trained, folder, verify(folder))


def test_parity_is_that_of_float16(half: Exported) -> None:
    """The manifest states its type and its tolerance, which the scores need and keep."""
    assert {array.dtype for array in half.manifest.state} == {"float16"}
    assert half.manifest.tolerance == HALF_TOLERANCE
    found = check_parity(half.folder, half.trained, half.manifest)
    assert tuple(found) == PARITY_ROWS
    assert 1e-6 < max(found.values()) <= HALF_TOLERANCE  # which float32 would not show


def test_a_service_loads_it(half: Exported) -> None:
    """The golden scores are reproduced with float16 state."""
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(half.folder, ModelOptions(EngineOptions(provider="cpu")), executor)
        model.close()


def test_only_what_is_gathered_is_widened(half: Exported) -> None:
    """rank.onnx takes the state whole; a cast before the gather would copy the catalogue in every run."""
    graph = onnx.load(half.folder / "rank.onnx", load_external_data=False).graph
    state = {array.name for array in half.manifest.state}
    readers = [node for node in graph.node if state.intersection(node.input)]
    assert [node.op_type for node in readers] == ["Gather"] * len(state)
    gathered = {node.output[0] for node in readers}
    assert [node.op_type for node in graph.node if gathered.intersection(node.input)] == ["Cast"] * len(state)


@pytest.mark.parametrize("absurd", [3e6, 1e9, 1e300])
def test_an_absurd_item_has_a_score(half: Exported, absurd: float) -> None:
    """Its state ends where float16 does: what an item brings, of no order of magnitude, is never infinite."""
    encoder = written_encoder(half.folder, half.manifest)
    with closing(Engine(half.folder, half.manifest, encoder.items, EngineOptions("cpu"))) as engine:
        for number in (absurd, -absurd):
            encoded = encoder.request("u1", {}, {}, ["i1", "i2"], {0: {"length": number}})
            scores = engine.run([encoded])[0].scores
            assert all(np.isfinite(values).all() for values in scores.values())


def test_state_beyond_float16_is_refused(
    half: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue whose state is above 65,504, the most there is: no bundle."""
    encoder = half.trained.encoder
    items = encoder.tables["item"]
    lengths = Numbers(np.linspace(-1e9, 1e9, len(items)))
    absurd = Table("item", items.keys, {**items.columns, "length": lengths})
    encoder = Encoder(encoder.schema, encoder.vocabularies, {**encoder.tables, "item": absurd})
    with pytest.raises(BundleError, match=r"user, item and rank.* and torch disagree"):
        export_again(half, replace(half.trained, encoder=encoder), tmp_path, monkeypatch)
    assert versions(tmp_path) == []


def test_an_order_that_changes_too_much_is_refused(half: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores within the tolerance may still change places; below the least tau there is no bundle."""
    monkeypatch.setattr(parity, "LEAST_TAU", 1.01)
    with pytest.raises(BundleError, match=r"Kendall's tau of click is \S+, below 1.01; set export.state"):
        check_parity(half.folder, half.trained, half.manifest)
