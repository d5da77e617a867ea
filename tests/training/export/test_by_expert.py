"""Rank graphs expert by expert: the same scores, and what onnxruntime needs to be fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from service.bundle.golden import agree
from service.engine import EngineOptions, open_session
from tests.training import worlds
from training.export.by_expert import LEAST_WEIGHTS, by_expert
from training.graphs import StateType, rank_graph

LARGE = [128, 128]
PLE = {"name": "ple", "embedding": 4, "tower_hidden": [8]}
FUNNEL = [{"name": "click"}, {"name": "like_given_click", "label": "like", "mask": "click", "weight": 0}]
MODELS: dict[str, dict[str, Any]] = {
    "mmoe": {"name": "mmoe", "embedding": 4, "experts": 3, "expert_hidden": [*LARGE, 8]},
    "mmoe_large_towers": {"name": "mmoe", "embedding": 4, "expert_hidden": LARGE, "tower_hidden": LARGE},
    "omoe": {"name": "omoe", "embedding": 4, "experts": 3, "expert_hidden": LARGE},
    "cgc": PLE | {"levels": [LARGE], "gate_hidden": [8], "gate_temperature": 2.0},
    "ple": PLE | {"levels": [LARGE, [128], [8]]},
    "ple_of_twice_two": PLE | {"specific_experts": 2, "levels": [[128], [128]]},
    "stacked_mmoe": PLE | {"specific_experts": 0, "levels": [[128], [128]]},
    "shared_bottom": {"name": "shared_bottom", "embedding": 4, "bottom_hidden": LARGE},
    "single_task": {"name": "single_task", "embedding": 4, "hidden": LARGE},
    "esmm": {"name": "esmm", "embedding": 4, "hidden": LARGE},
}
"""each with a layer of an expert, or of a tower, that is large"""
QUICK = ("mmoe", "ple")
ITEMS = 40


def graph_of(model: Mapping[str, Any], state: StateType = "float32") -> onnx.ModelProto:
    """The rank graph of a model, no bias of which is 0."""
    tasks = [*FUNNEL, {"name": "like"}] if model["name"] == "esmm" else worlds.TASKS[:2]
    prepared = worlds.prepare(worlds.log(60), **worlds.QUICK | {"model": model, "tasks": tasks})
    made = prepared.model().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) / 20)
    specs = [task.spec() for task in prepared.config.tasks]
    return rank_graph(made, prepared.encoder.schema, specs, state)


def scores(graph: onnx.ModelProto, path: Path, rows: int, users: int) -> list[NDArray[np.float32]]:
    """By onnxruntime, of arrays that depend on their names and shapes alone."""
    onnx.save_model(graph, path)
    session = open_session(path, EngineOptions(provider="cpu"))
    feeds: dict[str, NDArray[Any]] = {}
    for given in session.get_inputs():
        random = np.random.default_rng(len(given.name))
        if given.name == "item_row":
            feeds[given.name] = random.integers(0, ITEMS, rows, dtype=np.int32)
        elif given.name == "cross_index":
            feeds[given.name] = random.integers(0, 3, (rows, given.shape[1]), dtype=np.int32)
        else:
            count = {"items": ITEMS, "R": users, "N": rows}[given.shape[0]]
            kind = np.float16 if given.type == "tensor(float16)" else np.float32
            feeds[given.name] = random.normal(size=(count, *given.shape[1:])).astype(kind)
    return list(session.run(None, feeds))


def large_of_three_axes(graph: onnx.ModelProto) -> int:
    """How many large layers are batched."""
    shapes = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    weights = [shapes.get(node.input[1], []) for node in graph.graph.node if node.op_type == "MatMul"]
    return sum(len(dims) == 3 and np.prod(dims[1:]) >= LEAST_WEIGHTS for dims in weights)


def parted_of(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph expert by expert, which it can be."""
    parted = by_expert(graph)
    assert parted is not None
    return parted


def same_scores(graph: onnx.ModelProto, parted: onnx.ModelProto, path: Path, rows: int, users: int) -> None:
    """Both give the same, and not the same to every row."""
    before, after = (scores(each, path, rows, users) for each in (graph, parted))
    assert all(agree(ours, theirs) for ours, theirs in zip(after, before, strict=True))
    assert rows < 50 or all(np.ptp(each) > 1e-3 for each in before)  # agreeing is no small thing


def biased(bias: NDArray[np.float32]) -> onnx.ModelProto:
    """First layers of two experts side by side, plus this, and a large layer of each."""
    random = np.random.default_rng(0)
    weights = {
        "bias": bias,
        "shape": np.array([-1, 2, LARGE[0]]),
        "weights": random.normal(size=(2, *LARGE)).astype(np.float32) / 10,
    }
    nodes = [
        helper.make_node("Gather", ["item_first", "item_row"], ["rows"], axis=0),
        helper.make_node("Add", ["rows", "bias"], ["columns"]),
        helper.make_node("Reshape", ["columns", "shape"], ["experts"]),
        helper.make_node("Transpose", ["experts"], ["outermost"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["outermost", "weights"], ["second"]),
        helper.make_node("Neg", ["second"], ["y"]),
    ]
    kinds = (("item_first", 1, ["items", 2 * LARGE[0]]), ("item_row", 6, ["N"]), ("y", 1, [2, "N", LARGE[1]]))
    *given, y = (helper.make_tensor_value_info(*each) for each in kinds)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "biased", given, [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def mmoe() -> onnx.ModelProto:
    """As the exporter writes it."""
    return graph_of(MODELS["mmoe"])


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_the_scores_are_the_same(name: str, tmp_path: Path) -> None:
    """Of one row and of many, of one user and of a user a row."""
    graph = graph_of(MODELS[name])
    parted = parted_of(graph)
    onnx.checker.check_model(parted, full_check=True)
    assert large_of_three_axes(graph) > large_of_three_axes(parted)
    for rows, users in ((1, 1), (9, 1), (9, 9), (300, 1)):
        same_scores(graph, parted, tmp_path / "rank.onnx", rows, users)


@pytest.mark.parametrize("shape", [(1, 2 * LARGE[0]), (2 * LARGE[0],), (1, 1), ()])
def test_a_bias_of_any_shape_is_added(shape: tuple[int, ...], tmp_path: Path) -> None:
    """One that is a part an expert, one of a single axis, and those that are the same for all."""
    bias = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    graph = onnx.shape_inference.infer_shapes(biased(bias))
    parted = parted_of(graph)
    assert (large_of_three_axes(graph), large_of_three_axes(parted)) == (1, 0)
    same_scores(graph, parted, tmp_path / "rank.onnx", 50, 1)


def test_a_graph_whose_shapes_are_unknown_is_left_as_it_is() -> None:
    """How many experts there are is not guessed."""
    assert by_expert(biased(np.zeros((1, 1), np.float32))) is None


def test_state_of_float16_is_widened_after_the_gather(tmp_path: Path) -> None:
    """An expert's part at a time; the scores are those of the graph before, of the same state."""
    graph = graph_of(MODELS["mmoe"], "float16")
    parted = parted_of(graph)
    same_scores(graph, parted, tmp_path / "rank.onnx", 50, 1)
    gathers = {node.output[0] for node in parted.graph.node if node.op_type == "Gather"}
    widened = {node.input[0] for node in parted.graph.node if node.op_type == "Cast"}
    assert widened <= gathers
    assert len(widened) == 3 + 1  # an expert each, and the gates


def test_no_node_copies_the_state(mmoe: onnx.ModelProto) -> None:
    """The state of all items is gathered from, or viewed in another shape, and else untouched."""
    parted = parted_of(mmoe)
    readers = [node.op_type for node in parted.graph.node if {"item_experts", "item_gates"} & {*node.input}]
    assert sorted(readers) == ["Gather", "Reshape"]


def test_it_takes_and_gives_what_it_did(mmoe: onnx.ModelProto) -> None:
    """Names, types and shapes of inputs and outputs."""
    parted = parted_of(mmoe)
    for before, after in ((mmoe.graph.input, parted.graph.input), (mmoe.graph.output, parted.graph.output)):
        assert [(array.name, array.type) for array in after] == [(array.name, array.type) for array in before]


def test_small_layers_stay_together() -> None:
    """A model without a large layer gets no second graph."""
    graph = graph_of({"name": "mmoe", "embedding": 4, "expert_hidden": [16, 8], "tower_hidden": [8]})
    assert by_expert(graph) is None


def test_weights_are_held_once(mmoe: onnx.ModelProto) -> None:
    """What is in parts is no more there as a whole."""
    assert parted_of(mmoe).ByteSize() < 1.1 * mmoe.ByteSize()
