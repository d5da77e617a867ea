"""`rank.int8.onnx`: what it holds, and when the bundle does without it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.budget import enough
from service.bundle.encoder import Encoder
from service.bundle.golden import disagreement
from service.bundle.graphs import ITEM_INT8, RANK_CPU, RANK_INT8
from service.bundle.manifest import HALF_TOLERANCE, TOLERANCE, Int8
from service.bundle.schema import Scope
from service.bundle.store import verify
from service.engine import Engine, EngineOptions
from service.ledger import Ledger
from service.model import Model, ModelOptions
from service.state import row_bytes
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


@pytest.fixture(scope="module", params=[False, True], ids=["", "crossed"])
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle with int8 that reads a number of each side as it comes, and a cross feature or none."""
    numbers = [
        {"kind": "numeric", "name": "age", "source": "user.age"},
        {"kind": "numeric", "name": "length", "source": "item.length"},
    ]
    features = [each for each in worlds.QUICK["features"] if request.param or each["kind"] != "product"]
    trained = trained_with(features=[*features, *numbers], export={"int8": True})
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


def test_a_first_layer_of_two_parts_is_a_sum_in_eight_bits(quantised: Exported) -> None:
    """That of both experts; one that a cross feature adds to is none."""
    kinds = [node.op_type for node in onnx.load(quantised.folder / RANK_INT8).graph.node]
    crossed = bool(quantised.manifest.features.in_scope(Scope.CROSS))
    assert (kinds.count("QLinearAdd"), kinds.count("DequantizeLinear")) == ((0, 2) if crossed else (2, 0))


def test_a_bottom_for_all_tasks_is_so_too(tmp_path: Path) -> None:
    """One part, which no node parts from others."""
    model = {"name": "shared_bottom", "bottom_hidden": [256, 128], "tower_hidden": [8]}
    features = [each for each in worlds.QUICK["features"] if each["kind"] != "product"]
    trained = trained_with(features=features, model=model, export={"int8": True})
    folder = export(trained, tmp_path, "v1")
    kinds = [node.op_type for node in onnx.load(folder / RANK_INT8).graph.node]
    assert (kinds.count("QLinearAdd"), kinds.count("MatMulIntegerToFloat")) == (1, 1)


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_service_loads_it(quantised: Exported, precision: Literal["auto", "int8"]) -> None:
    """Twice: having measured, and by what was found."""
    for _ in range(2):
        with ThreadPoolExecutor(1) as executor:
            options = ModelOptions(EngineOptions(provider="cpu"), precision=precision)
            model = Model.load(quantised.folder, options, executor)
            in_int8 = model.precision.precision == "int8"
            assert model.state.dtype == ("uint8, float32" if in_int8 else "float32")
            assert in_int8 or precision == "auto"
            model.close()


def test_experts_that_cannot_be_parted_stay_together(quantised: Exported, tmp_path: Path) -> None:
    """Without a rank graph for a CPU it is made of the batched one; it is as exact."""
    copy = Path(shutil.copytree(quantised.folder, tmp_path / "copy"))
    (copy / RANK_CPU).unlink()
    found = add_int8(copy, quantised.trained, quantised.manifest).int8
    assert [*small_weights(copy).values()] == [([2, 128, 128], [2, 1, 128])]
    assert quantised.manifest.int8 is not None
    assert found is not None
    assert found.tolerance == pytest.approx(quantised.manifest.int8.tolerance, rel=0.5)


def test_nothing_else_is_left_in_the_folder(quantised: Exported) -> None:
    """The graph that its ranges are measured with is gone."""
    graphs = {path.name for path in quantised.folder.glob("*.onnx")}
    assert graphs == {"user.onnx", "item.onnx", "rank.onnx", RANK_CPU, "flat.onnx", RANK_INT8, ITEM_INT8}


def proven(exported: Exported, folder: Path) -> Int8:
    """What a copy of the bundle, or itself, is worth."""
    assert exported.manifest.int8 is not None
    return prove_int8(folder, exported.trained, exported.manifest, exported.manifest.int8.state)


def test_the_tolerance_is_twice_what_was_measured(quantised: Exported) -> None:
    """What is measured again is what the manifest says."""
    assert proven(quantised, quantised.folder) == quantised.manifest.int8


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
        proven(quantised, copy)


def test_the_bundle_is_written_without_it(
    quantised: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that is not near enough: the graph is left out, and the manifest says why."""
    strict = ExportConfig(int8=True, int8_least_tau=1.0)
    config = quantised.trained.config.model_copy(update={"export": strict})
    trained = replace(quantised.trained, config=config)
    manifest = verify(export_again(quantised, trained, tmp_path, monkeypatch))
    assert manifest.int8 is None
    assert {RANK_INT8, ITEM_INT8}.isdisjoint(manifest.files)
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


def opened(exported: Exported, rows: int | None = None, chunk_rows: int = 256) -> Engine:
    """The bundle's engine in int8, with room for so many items' state, or for all."""
    encoder = written_encoder(exported.folder, exported.manifest)
    row = row_bytes(exported.manifest.state_in("int8"))
    ledger = Ledger(2**30 if rows is None else enough(len(encoder.items), row, 16, rows))
    options = EngineOptions(provider="cpu", max_rows=16, chunk_rows=chunk_rows)
    return Engine(exported.folder, exported.manifest, encoder.items, options, ledger, "int8")


@pytest.fixture
def engine(quantised: Exported) -> Iterator[Engine]:
    """The bundle, in int8."""
    with closing(opened(quantised)) as engine:
        yield engine


def test_the_items_state_is_in_eight_bits(quantised: Exported, engine: Engine) -> None:
    """A quarter of the memory, but for the gates'; both what it is and how much of it is told."""
    wide, narrow = quantised.manifest.state_in("int8")
    assert (wide.dtype, narrow.dtype) == ("uint8", "float32")
    assert [array.dtype for array in quantised.manifest.state] == ["float32", "float32"]
    assert engine.state.dtype == "uint8, float32"
    with closing(
        Engine(quantised.folder, quantised.manifest, encoder_of(quantised).items, EngineOptions("cpu"))
    ) as full:
        assert full.state.bytes - engine.state.bytes > 2 * 256 * engine.state.rows


def encoder_of(exported: Exported) -> Encoder:
    """As a service makes it."""
    return written_encoder(exported.folder, exported.manifest)


@pytest.mark.parametrize("rows", [None, 20])
def test_a_score_is_the_same_whatever_is_held(quantised: Exported, engine: Engine, rows: int | None) -> None:
    """In runs of 7 candidates, with others' requests, and where items evict each other."""
    encoder = encoder_of(quantised)
    ids = [f"i{at}" for at in range(60)]
    requests = [
        encoder.request(f"u{at}", {}, {}, ids[start : start + 25], {3: {"length": 2.5}})
        for at, start in enumerate((0, 30, 10, 35))
    ]
    expected = [engine.run([request])[0].scores for request in requests]
    with closing(opened(quantised, rows, chunk_rows=7)) as other:
        for _ in range(3):
            together = other.run(requests)
            alone = [other.run([request])[0] for request in requests]
            for found in (together, alone):
                for inference, scores in zip(found, expected, strict=True):
                    apart = max(disagreement(inference.scores[task], scores[task]) for task in scores)
                    assert apart <= TOLERANCE
        assert (other.state.counts["evicted"] > 0) == (rows is not None)


def test_more_bits_are_kept_where_eight_are_not_enough(
    quantised: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one item is so far off that all others are alike beside it: the layers are in int8 still."""
    copy = Path(shutil.copytree(quantised.folder, tmp_path / "copy"))
    monkeypatch.setattr(
        "training.export.int8.ranges_of", lambda parts, _: {part.name: (-1e4, 1e4) for part in parts}
    )
    manifest = add_int8(copy, quantised.trained, quantised.manifest)
    assert manifest.int8 is not None
    assert manifest.int8.state == ()
    assert manifest.int8.kendall_tau >= 0.99
    assert re.search(r"apart|Kendall|NDCG", manifest.left_out["int8 state"])
    assert not (copy / ITEM_INT8).exists()
    assert [*small_weights(copy).values()] == 2 * [([128, 128], [128])]
    assert manifest.state_in("int8") == manifest.state


@pytest.mark.parametrize("absurd", [1e3, 1e6, 1e12])
def test_no_score_depends_on_who_shares_the_run(quantised: Exported, engine: Engine, absurd: float) -> None:
    """Neither on a neighbour's user, nor on its item."""
    encoder = encoder_of(quantised)
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
    encoder = encoder_of(quantised)
    ids = [f"i{at}" for at in range(20)]
    plain, odd = (
        engine.run([encoder.request("u1", {}, {}, ids, inline)])[0].scores
        for inline in ({}, {7: {"length": absurd}})
    )
    others = np.arange(len(ids)) != 7
    for task, scores in plain.items():
        assert disagreement(odd[task][others], scores[others]) <= TOLERANCE
    assert any(abs(odd[task][7] - scores[7]) > TOLERANCE for task, scores in plain.items())
