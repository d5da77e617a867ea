"""`rank.int8.onnx`: what it holds, and when the bundle does without it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.bundle.graphs import RANK_INT8
from service.bundle.store import verify
from tests.training import worlds
from tests.training.worlds import Exported
from training.export import export
from training.export.int8 import Int8Refused, int8_graph, prove_int8
from training.export.parity import check_parity
from training.graphs import rank_graph
from training.trained import Trained

LARGE = {**worlds.QUICK["model"], "expert_hidden": [128, 128], "tower_hidden": [8]}


def trained_with(**sections: Any) -> Trained:
    """A small model whose experts' second layer is large enough for int8."""
    return worlds.prepare(worlds.log(600), **worlds.QUICK | {"model": LARGE} | sections).trained()


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle with int8."""
    trained = trained_with(export={"int8": True})
    folder = export(trained, tmp_path_factory.mktemp("int8"), "v1")
    return Exported(trained, folder, verify(folder))


def test_a_bundle_has_it_beside_the_others(quantised: Exported) -> None:
    """Its agreement is in the manifest; the other graphs are as exact as ever."""
    manifest = quantised.manifest
    assert RANK_INT8 in manifest.files
    assert manifest.int8 is not None
    assert manifest.left_out == {}
    assert manifest.int8.kendall_tau >= 0.97
    assert manifest.int8.ndcg >= 0.99
    assert manifest.tolerance < manifest.int8.tolerance < 0.1
    check_parity(quantised.folder, quantised.trained, manifest)


def test_large_weights_are_int8_and_no_others(quantised: Exported) -> None:
    """The experts' second layer; a tower of 128 by 8 stays as it is."""
    graph = onnx.load(quantised.folder / RANK_INT8, load_external_data=False).graph
    small = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert [list(tensor.dims) for tensor in small if tensor.dims] == [[2, 128, 128]]
    assert [node.op_type for node in graph.node].count("MatMulInteger") == 1


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
            tensor.CopyFrom(numpy_helper.from_array(values[:, ::-1].copy(), tensor.name))
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


def test_the_bundle_is_written_without_it(tmp_path: Path) -> None:
    """An order that is not near enough: the graph is left out, and the manifest says why."""
    trained = trained_with(export={"int8": True, "int8_least_tau": 1.0})
    manifest = verify(export(trained, tmp_path, "v1"))
    assert manifest.int8 is None
    assert RANK_INT8 not in manifest.files
    assert "Kendall's tau is 0.9" in manifest.left_out["int8"]


def test_layers_too_small_to_gain_are_refused() -> None:
    """What enters a layer must be quantised, too, which costs a small one more than it gains."""
    prepared = worlds.prepare(worlds.log(400), **worlds.QUICK)
    tasks = [task.spec() for task in prepared.config.tasks]
    with pytest.raises(Int8Refused, match=r"no layer of rank.onnx has 16,384 weights or more"):
        int8_graph(rank_graph(prepared.model().eval(), prepared.encoder.schema, tasks))


def test_quantising_leaves_the_graph_as_it_was(quantised: Exported) -> None:
    """rank.onnx is written after it was read for int8."""
    trained = quantised.trained
    rank = rank_graph(trained.model, quantised.manifest.features, quantised.manifest.tasks)
    before = rank.SerializeToString(deterministic=True)
    int8_graph(rank)
    assert rank.SerializeToString(deterministic=True) == before
