"""`rank.int8.onnx`: what it holds, and when the bundle does without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.bundle.golden import disagreement
from service.bundle.graphs import RANK_CPU, RANK_INT8
from service.bundle.manifest import HALF_TOLERANCE, TOLERANCE
from service.bundle.store import verify
from service.engine import Engine, EngineOptions
from tests.training import worlds
from tests.training.export.again import export_again
from tests.training.worlds import Exported
from training.config import ExportConfig
from training.export import export
from training.export.int8 import Int8Refused, add_int8, prove_int8
from training.export.parity import check_parity, written_encoder
from training.graphs import rank_graph
from training.trained import Trained

LARGE = {**worlds.QUICK["model"], "expert_hidden": [128, 128], "tower_hidden": [8]}


def trained_with(**sections: Any) -> Trained:
    """A small model whose experts' second layer is large enough for int8."""
    return worlds.prepare(worlds.log(600), **worlds.QUICK | {"model": LARGE} | sections).trained()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle with int8 that reads a number of each side as it comes."""
    numbers = [
        {"kind": "numeric", "name": "age", "source": "user.age"},
        {"kind": "numeric", "name": "length", "source": "item.length"},
    ]
    trained = trained_with(features=[*worlds.QUICK["features"], *numbers], export={"int8": True})
    folder = export(trained, tmp_path_factory.mktemp("int8"), "v1")
    return Exported(trained, folder, verify(folder))


def test_a_bundle_has_it_beside_the_others(quantised: Exported) -> None:
    """Its agreement is in the manifest; the other graphs are as exact as ever."""
    manifest = quantised.manifest
    assert RANK_INT8 in manifest.files
    assert manifest.int8 is not None
    assert manifest.left_out == {}
    assert manifest.int8.kendall_tau >= 0.99
    assert manifest.int8.ndcg >= 0.999
    assert manifest.tolerance < manifest.int8.tolerance < 0.02
    check_parity(quantised.folder, quantised.trained, manifest)


def small_weights(folder: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Shapes of the weights in int8, and of their scales."""
    graph = onnx.load(folder / RANK_INT8, load_external_data=False).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    small = [tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    return {name: (shapes[name], shapes[f"{name}_scale"]) for name in small}


def test_large_weights_are_int8_and_no_others(quantised: Exported) -> None:
    """The second layer of each expert, with a scale a unit; a tower of 128 by 8 stays as it is."""
    assert [*small_weights(quantised.folder).values()] == 2 * [([128, 128], [128])]


def test_experts_that_cannot_be_parted_stay_together(quantised: Exported, tmp_path: Path) -> None:
    """Without a rank graph for a CPU it is made of the batched one; it is as exact."""
    copy = Path(shutil.copytree(quantised.folder, tmp_path / "copy"))
    (copy / RANK_CPU).unlink()
    found = add_int8(copy, quantised.trained, quantised.manifest)
    assert [*small_weights(copy).values()] == [([2, 128, 128], [2, 1, 128])]
    assert quantised.manifest.int8 is not None
    assert found.tolerance == pytest.approx(quantised.manifest.int8.tolerance, rel=0.5)


def test_nothing_else_is_left_in_the_folder(quantised: Exported) -> None:
    """The graph that its ranges are measured with is gone."""
    graphs = {path.name for path in quantised.folder.glob("*.onnx")}
    assert graphs == {"user.onnx", "item.onnx", "rank.onnx", RANK_CPU, "flat.onnx", RANK_INT8}


def test_the_tolerance_is_twice_what_was_measured(quantised: Exported) -> None:
    """What is measured again is what the manifest says."""
    assert prove_int8(quantised.folder, quantised.trained, quantised.manifest) == quantised.manifest.int8


def spoiled(exported: Exported, folder: Path, permuted: bool) -> Path:
    """A copy whose int8 weights belong to other inputs, or whose scales are a hundred times too large."""
    copy = Path(shutil.copytree(exported.folder, folder / "copy"))
    model = onnx.load(copy / RANK_INT8)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if permuted and tensor.data_type == onnx.TensorProto.INT8 and tensor.dims:
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))
        elif not permuted and tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values * 100), tensor.name))
    onnx.save_model(model, copy / RANK_INT8)
    return copy


@pytest.mark.parametrize(("permuted", "why"), [(True, "Kendall|NDCG|apart"), (False, "apart")])
def test_a_badly_quantised_graph_is_refused(
    quantised: Exported, tmp_path: Path, permuted: bool, why: str
) -> None:
    """Weights of other units, or a wrong scale: the scores or their order are too far off."""
    copy = spoiled(quantised, tmp_path, permuted)
    with pytest.raises(Int8Refused, match=why):
        prove_int8(copy, quantised.trained, quantised.manifest)


def test_the_bundle_is_written_without_it(
    quantised: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that is not near enough: the graph is left out, and the manifest says why."""
    strict = ExportConfig(int8=True, int8_least_tau=1.0)
    config = quantised.trained.config.model_copy(update={"export": strict})
    trained = replace(quantised.trained, config=config)
    manifest = verify(export_again(quantised, trained, tmp_path, monkeypatch))
    assert manifest.int8 is None
    assert RANK_INT8 not in manifest.files
    assert "Kendall's tau is 0.9" in manifest.left_out["int8"]


def test_layers_too_small_to_gain_are_refused(quantised: Exported, tmp_path: Path) -> None:
    """Most of the time is spent elsewhere, and what enters such a layer must be brought to 8 bits, too."""
    manifest = quantised.manifest
    small = worlds.prepare(worlds.log(60), **worlds.QUICK)
    rank = rank_graph(small.model(), small.encoder.schema, manifest.tasks)
    onnx.save_model(rank, tmp_path / "rank.onnx")
    with pytest.raises(Int8Refused, match=r"^no layer of rank.onnx has 16,384 weights or more"):
        add_int8(tmp_path, quantised.trained, manifest)


def test_float16_and_int8_are_apart_by_both(tmp_path: Path) -> None:
    """Golden scores are by the trainer: float16 state may move them as far, and int8 as far again."""
    manifest = verify(export(trained_with(export={"int8": True, "state": "float16"}), tmp_path, "v1"))
    assert manifest.int8 is not None
    assert manifest.tolerance == HALF_TOLERANCE
    assert manifest.int8.tolerance > HALF_TOLERANCE + 1e-4


@pytest.fixture
def engine(quantised: Exported) -> Iterator[Engine]:
    """The bundle, in int8."""
    encoder = written_encoder(quantised.folder, quantised.manifest)
    with closing(Engine(quantised.folder, quantised.manifest, encoder.items, EngineOptions("cpu"))) as engine:
        engine.rank_by(engine.opened(quantised.folder / RANK_INT8))
        yield engine


@pytest.mark.parametrize("absurd", [1e3, 1e6, 1e12])
def test_no_score_depends_on_who_shares_the_run(quantised: Exported, engine: Engine, absurd: float) -> None:
    """Neither on a neighbour's user, nor on its item."""
    encoder = written_encoder(quantised.folder, quantised.manifest)
    ids = [f"i{at}" for at in range(20)]
    sound = encoder.request("u1", {}, {}, ids, {})
    of_user = encoder.request("nobody", {"age": absurd}, {}, ids, {})
    of_item = encoder.request("u2", {}, {}, ids, {0: {"length": absurd}})
    alone = engine.run([sound])[0].scores
    together = engine.run([of_user, sound, of_item])[1].scores
    for task, scores in alone.items():
        assert disagreement(together[task], scores) <= TOLERANCE


@pytest.mark.parametrize("absurd", [1e3, 1e6, 1e12])
def test_no_score_depends_on_another_candidate(quantised: Exported, engine: Engine, absurd: float) -> None:
    """One item that comes with an absurd number has an odd score, and nobody else."""
    encoder = written_encoder(quantised.folder, quantised.manifest)
    ids = [f"i{at}" for at in range(20)]
    plain, odd = (
        engine.run([encoder.request("u1", {}, {}, ids, inline)])[0].scores
        for inline in ({}, {7: {"length": absurd}})
    )
    others = np.arange(len(ids)) != 7
    for task, scores in plain.items():
        assert disagreement(odd[task][others], scores[others]) <= TOLERANCE
    assert any(abs(odd[task][7] - scores[7]) > TOLERANCE for task, scores in plain.items())
