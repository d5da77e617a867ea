"""Graphs in int8: what they compute, against the same arithmetic written down in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from training.export.quantise import entering, int8_graph, showing

Floats = NDArray[np.float32]

WIDE, UNITS, ROWS = 256, 64, 20
RANGE = (-2.0, 3.0)
HALF = 0.5
"""128 of 255 in eight bits: up to there no sum of two products saturates on a processor without VNNI"""
EXPERTS = 3


def layer(weights: Floats, bias: Floats, read_twice: bool = False) -> onnx.ModelProto:
    """``y = -x @ weights + bias``; where the product is read twice, it is given as well."""
    batch = [EXPERTS] * (weights.ndim - 2)
    nodes = [
        helper.make_node("Neg", ["x"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
        helper.make_node("Abs", ["product"], ["size"]),
    ]
    names = ["y", "size"] if read_twice else ["y"]
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [*batch, "N", WIDE])
    gives = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    tensors = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes[: len(names) + 2], "layer", [given], gives, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def small(graph: onnx.ModelProto, folder: Path = Path()) -> onnx.ModelProto:
    """The graph in int8."""
    return int8_graph(graph, dict.fromkeys(entering(graph), RANGE), folder)


def run(graph: onnx.ModelProto, rows: Floats) -> Floats:
    """What a graph makes of ``-rows``."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    session = ort.InferenceSession(graph.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    (y, *_) = session.run(None, {"x": -rows})
    return np.asarray(y)


def naive(rows: Floats, weights: Floats, bias: Floats) -> Floats:
    """A layer of one expert in integers, unit by unit."""
    step = np.float32((RANGE[1] - RANGE[0]) / 255)
    zero = np.rint(-RANGE[0] / step)
    entering = np.clip(np.rint(rows / step) + zero, 0, 255) - zero
    units = []
    for column in weights.T:
        scale = np.abs(column).max() / np.float32(127)
        units.append(entering @ np.rint(column / scale) * step * scale)
    return (np.stack(units, 1) + bias).astype(np.float32)


def drawn(seed: int, experts: int | None = None) -> tuple[Floats, Floats, Floats]:
    """Rows, a fifth of whose numbers is below the range, weights whose units differ in size, and a bias."""
    random = np.random.default_rng(seed)
    batch = () if experts is None else (experts,)
    sizes = 10.0 ** random.uniform(-3, 1, (*batch, 1, UNITS))
    rows = random.normal(-0.75, 1.5, (*batch, ROWS, WIDE)).clip(max=HALF)
    weights, bias = sizes * random.normal(size=(*batch, WIDE, UNITS)), random.normal(size=(*batch, 1, UNITS))
    return rows.astype(np.float32), weights.astype(np.float32), bias.astype(np.float32)


@given(st.integers(0, 2**32 - 1))
def test_a_layer_is_computed_in_integers(seed: int) -> None:
    """As it is written down; its own bias is added by the same node."""
    rows, weights, bias = drawn(seed)
    graph = small(layer(weights, bias))
    np.testing.assert_allclose(run(graph, rows), naive(rows, weights, bias), rtol=1e-5, atol=1e-4)
    assert [node.op_type for node in graph.graph.node] == ["Neg", "QuantizeLinear", "MatMulIntegerToFloat"]


def test_a_batched_layer_is_computed_so_expert_by_expert() -> None:
    """Every unit of every expert has a scale; what enters has one for all."""
    rows, weights, bias = drawn(0, EXPERTS)
    expected = np.stack([naive(*each) for each in zip(rows, weights, bias, strict=True)])
    found = run(small(layer(weights, bias)), rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_small_units_are_as_exact_as_large_ones() -> None:
    """Beside one whose weights are ten thousand times as large."""
    rows, weights, bias = drawn(1)
    weights /= np.abs(weights).max(0)
    weights[:, 0] *= 1e4
    rows = rows.clip(RANGE[0])
    apart = np.abs(run(small(layer(weights, 0 * bias)), rows) - rows @ weights)
    assert (apart.max(0) / np.abs(rows @ weights).max(0)).max() < 0.03


@pytest.mark.parametrize("absurd", [1e3, 1e30])
def test_a_row_is_clipped_and_its_neighbours_are_not(absurd: float) -> None:
    """What lies beyond the range counts as its end, however far, and in its own row alone."""
    rows, weights, bias = drawn(2)
    graph = small(layer(weights, bias))
    odd, ended = rows.copy(), rows.copy()
    odd[3, 5], ended[3, 5] = absurd, RANGE[1]
    np.testing.assert_array_equal(run(graph, odd), run(graph, ended))
    np.testing.assert_array_equal(np.delete(run(graph, odd), 3, 0), np.delete(run(graph, rows), 3, 0))
    np.testing.assert_allclose(run(graph, odd[3:4]), run(graph, odd)[3:4], rtol=1e-5, atol=1e-5)


def test_zeros_stay_zeros() -> None:
    """In what enters and in the weights, a unit of nothing else included: of all only the bias is left."""
    rows, weights, bias = drawn(3)
    weights[:, 7] = 0
    np.testing.assert_array_equal(run(small(layer(weights, bias)), rows)[:, 7], np.full(ROWS, bias[0, 7]))
    np.testing.assert_array_equal(run(small(layer(weights, bias)), 0 * rows), np.repeat(bias, ROWS, 0))


def test_a_product_that_is_read_elsewhere_is_there() -> None:
    """Its bias is then added apart."""
    rows, weights, bias = drawn(4)
    graph = small(layer(weights, bias, read_twice=True))
    np.testing.assert_allclose(run(graph, rows), naive(rows, weights, bias), rtol=1e-5, atol=1e-4)
    assert [node.op_type for node in graph.graph.node][2:] == ["MatMulIntegerToFloat", "Add", "Abs"]


def test_weights_outside_of_the_graph_come_into_it(tmp_path: Path) -> None:
    """They are read from where they lie, and come as bytes."""
    rows, weights, bias = drawn(5)
    graph, path = layer(weights, bias), tmp_path / "layer.onnx"
    expected = run(small(graph), rows)
    onnx.save_model(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    outside = onnx.load(path, load_external_data=False)
    for tensor in outside.graph.initializer:  # as the exporter leaves it: only what is large lies outside
        if tensor.name == "bias":
            tensor.CopyFrom(numpy_helper.from_array(bias, "bias"))
    found = small(outside, tmp_path)
    np.testing.assert_array_equal(run(found, rows), expected)
    assert [
        len(each.raw_data) for each in found.graph.initializer if each.data_type == onnx.TensorProto.INT8
    ] == [weights.size]


def test_what_enters_can_be_shown() -> None:
    """As an output of the graph, to measure its range."""
    rows, weights, bias = drawn(6)
    graph = layer(weights, bias)
    np.testing.assert_array_equal(run(showing(graph, entering(graph)), rows), rows)
