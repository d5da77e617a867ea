"""A graph with its large weights in int8, and with eight bits for what enters those layers.

A number ``r`` becomes ``q = round(r / scale) + zero``, of which ``(q - zero) * scale`` is near ``r`` (Jacob
et al. 2018, equation 1). Scale and zero of what enters a layer are fixed when the bundle is made, and what
lies beyond their range is clipped: no row's score depends on the rows that it runs with. Weights have a scale
a unit, and zero is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Range = tuple[float, float]
"""the least and the greatest of some numbers"""

LEAST_WEIGHTS = 1 << 14
"""of a matmul in int8: a smaller one gains little time, and twice the error where it is of the towers"""
LEAST_SCALE = 1e-12
"""of numbers that are all zero"""
RUNTIME = "com.microsoft"
"""the domain of onnxruntime's own operators"""


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

    Each becomes onnxruntime's own operator, which takes a scale a unit, and a bias. The runtime makes that
    operator of floats from `DequantizeLinear`, too, but not where a bias of floats follows a matmul of two
    axes: of these it makes one of floats first. And for a batched one it takes a scale a tensor.

    Args:
        graph: whose weights may lie outside it.
        ranges: of what `entering` names.
        folder: of the weights outside.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(graph)
    quantised.opset_import.append(helper.make_opsetid(RUNTIME, 1))
    into, large = quantised.graph, _large(quantised)
    del into.value_info[:]  # weights are floats there
    names = {node.input[1] for node in large}
    for tensor in [tensor for tensor in into.initializer if tensor.name in names]:
        values, scales = _int8(numpy_helper.to_array(tensor, str(folder)))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        into.initializer.append(numpy_helper.from_array(scales, f"{tensor.name}_scale"))
    for node in large:
        rows, weights = node.input
        node.op_type, node.domain = "MatMulIntegerToFloat", RUNTIME
        node.input[:] = [f"{rows}_uint8", weights, f"{rows}_scale", f"{weights}_scale", f"{rows}_zero"]
    _take_biases(into, large)
    _bring_to_uint8(into, ranges)
    return quantised


def _large(graph: onnx.ModelProto) -> list[NodeProto]:
    """The matmuls whose weights are large enough."""
    shapes = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    return [
        node
        for node in graph.graph.node
        if node.op_type == "MatMul" and np.prod(shapes.get(node.input[1], [0])[-2:]) >= LEAST_WEIGHTS
    ]


def _take_biases(graph: onnx.GraphProto, large: Iterable[NodeProto]) -> None:
    """Have layers add biases of ``[1, H']`` themselves, as a layer of one expert has them: 3 % less time."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    read = Counter(name for node in graph.node for name in node.input)
    layers = {node.output[0]: node for node in large if read[node.output[0]] == 1}
    for add in [node for node in graph.node if node.op_type == "Add" and node.input[0] in layers]:
        layer, bias = layers[add.input[0]], tensors.get(add.input[1])
        if bias is not None and [*bias.dims] == [1, tensors[layer.input[1]].dims[-1]]:
            del bias.dims[0]
            layer.input.extend(["", bias.name])  # the zero of weights is left out: it is 0
            layer.output[:] = add.output
            graph.node.remove(add)


def _bring_to_uint8(graph: onnx.GraphProto, ranges: Mapping[str, Range]) -> None:
    """After a node that computes one of these arrays, the same in eight bits, and its scale and zero."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        for name in ranges.keys() & node.output:
            scale, zero = uint8_of(ranges[name])
            graph.initializer.append(numpy_helper.from_array(np.asarray(scale), f"{name}_scale"))
            graph.initializer.append(numpy_helper.from_array(np.asarray(zero), f"{name}_zero"))
            inputs = [name, f"{name}_scale", f"{name}_zero"]
            graph.node.append(helper.make_node("QuantizeLinear", inputs, [f"{name}_uint8"]))


def _int8(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights ``[H, H']`` or ``[E, H, H']`` as int8 of zero 0, and scales ``[H']`` or ``[E, 1, H']``."""
    scales = np.maximum(np.abs(values).max(axis=-2, keepdims=values.ndim > 2) / 127, LEAST_SCALE)
    return np.rint(values / scales).astype(np.int8), scales.astype(np.float32)


def uint8_of(numbers: Range) -> tuple[np.float32, np.uint8]:
    """Scale and zero of numbers of a range; it is widened to hold 0, which stays exact."""
    least, greatest = min(numbers[0], 0.0), max(numbers[1], 0.0)
    scale = np.float32(max((greatest - least) / 255, LEAST_SCALE))
    return scale, np.uint8(np.rint(-least / scale))
