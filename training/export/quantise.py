"""A graph with its large weights in int8, and with eight bits for what enters those layers.

A number ``r`` becomes ``q = round(r / scale) + zero``, of which ``(q - zero) * scale`` is near ``r`` (Jacob
et al. 2018, equation 1). Scale and zero of what enters a layer are fixed when the bundle is made, and what
lies beyond their range is clipped: no row's score depends on the rows that it runs with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Range = tuple[float, float]
"""the least and the greatest of some numbers"""

LEAST_WEIGHTS = 1 << 14
"""of a matmul in int8: a smaller one gains little time, and doubles the error where it is of the towers"""
LEAST_SCALE = 1e-12
"""of numbers that are all zero"""


def entering(graph: onnx.ModelProto) -> list[str]:
    """Names of what enters the matmuls of `LEAST_WEIGHTS` or more."""
    return list(dict.fromkeys(node.input[0] for node in _large(graph)))


def showing(graph: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The graph with some of the float arrays in it as its outputs."""
    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return shown


def int8_graph(graph: onnx.ModelProto, ranges: Mapping[str, Range], folder: Path) -> onnx.ModelProto:
    """The graph with every matmul of `LEAST_WEIGHTS` or more in int8.

    Each is written as one of floats that come from `DequantizeLinear`; onnxruntime makes one of integers of
    it. A tensor of weights has one scale for all its experts and units: of a batched matmul the runtime takes
    no scales a unit.

    Args:
        graph: whose weights may lie outside it.
        ranges: of what `entering` names.
        folder: of the weights outside.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(graph)
    into, large = quantised.graph, _large(quantised)
    weights = {node.input[1] for node in large}
    for node in large:
        node.input[:] = [f"{name}_near" for name in node.input]
    nodes = list(into.node)
    del into.node[:]
    for tensor in [tensor for tensor in into.initializer if tensor.name in weights]:
        values, scale = _int8(numpy_helper.to_array(tensor, str(folder)))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        into.initializer.extend(_constants(tensor.name, scale, np.int8(0)))
        into.node.append(_step("DequantizeLinear", tensor.name, tensor.name, "near"))
    for node in nodes:
        into.node.append(node)
        for name in ranges.keys() & node.output:
            into.initializer.extend(_constants(name, *_uint8(ranges[name])))
            into.node.append(_step("QuantizeLinear", name, name, "uint8"))
            into.node.append(_step("DequantizeLinear", f"{name}_uint8", name, "near"))
    return quantised


def _large(graph: onnx.ModelProto) -> list[NodeProto]:
    """The matmuls whose weights are large enough."""
    shapes = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    return [
        node
        for node in graph.graph.node
        if node.op_type == "MatMul" and np.prod(shapes.get(node.input[1], [0])[-2:]) >= LEAST_WEIGHTS
    ]


def _int8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], np.float32]:
    """Weights as int8 of zero 0, and their scale."""
    scale = np.float32(max(np.abs(values).max() / 127, LEAST_SCALE))
    return np.rint(values / scale).astype(np.int8), scale


def _uint8(numbers: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero of numbers of a range; it is widened to hold 0, which stays exact."""
    least, greatest = min(numbers[0], 0.0), max(numbers[1], 0.0)
    scale = np.float32(max((greatest - least) / 255, LEAST_SCALE))
    return scale, np.uint8(np.rint(-least / scale))


def _constants(name: str, scale: np.float32, zero: np.int8 | np.uint8) -> list[TensorProto]:
    return [
        numpy_helper.from_array(np.asarray(value), f"{name}_{what}")
        for what, value in (("scale", scale), ("zero", zero))
    ]


def _step(operator: str, array: str, name: str, gives: str) -> NodeProto:
    """A node that takes an array by the constants of a name."""
    given = f"{name}_{gives}"
    return helper.make_node(operator, [array, f"{name}_scale", f"{name}_zero"], [given], name=f"node_{given}")
