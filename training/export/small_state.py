"""The items' state in eight bits, for a rank graph in int8: a quarter of the memory, and of what a run reads.

A first layer is a sum of the user's part and the item's. Where a layer in int8 is all that reads its ReLU,
the sum is one of eight bits, too (`QLinearAdd`): what is below zero ends there, and so it is its own ReLU.
Elsewhere, as where a cross feature adds to it, the item's part becomes float32 again once it is gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.bundle.manifest import StateArray
from training.export.quantise import RUNTIME, Range, uint8_of

LEAST_COLUMNS = 256
"""of an array in eight bits: gates have few, and all that they say is in how far apart these are"""

Ranges = Mapping[str, Range]
"""by an array's name in the rank graph"""


@dataclass(frozen=True, slots=True)
class Sum:
    """A first layer that can be in eight bits: names of what a part is added to, of the sum, of its ReLU."""

    other: str
    total: str
    relu: str


@dataclass(frozen=True, slots=True)
class Part:
    """Columns ``[n·H, (n + 1)·H)`` of a state array, as a run gathers them.

    Attributes:
        name: of the part in float32, ``[N, H]``.
        rows: of what is gathered: the same, or what is cast to it.
        array: of the state.
        number: ``n``.
        sum: what it becomes a part of, if that can be in eight bits.
    """

    name: str
    rows: str
    array: str
    number: int
    sum: Sum | None


def parts_of(rank: onnx.ModelProto, state: Iterable[StateArray], entering: Sequence[str]) -> list[Part]:
    """All parts of the state arrays that can be kept in eight bits, array by array, in order.

    Args:
        rank: the graph in float32.
        state: that it reads.
        entering: arrays that it is to have in eight bits.
    """
    nodes = _Nodes(rank.graph, entering)
    wide = (array.name for array in state if len(array.shape) == 2 and array.shape[1] >= LEAST_COLUMNS)
    return [part for name in wide for part in nodes.parts(name)]


def ranges_of(parts: Sequence[Part], state: Mapping[str, NDArray[np.float32]]) -> dict[str, Range]:
    """The least and the greatest number of each part in the state ``[n, E·H]`` of items."""
    ranges: dict[str, Range] = {}
    for name, own in _by_array(parts).items():
        for part, columns in zip(own, np.split(state[name], len(own), axis=1), strict=True):
            ranges[part.name] = float(columns.min()), float(columns.max())
    return ranges


def small_item_graph(item: onnx.ModelProto, parts: Sequence[Part], ranges: Ranges) -> onnx.ModelProto:
    """The item graph, which gives the arrays of these parts in eight bits."""
    small = onnx.ModelProto()
    small.CopyFrom(item)
    graph, arrays = small.graph, _by_array(parts)
    for output in [output for output in graph.output if output.name in arrays]:
        name, own = output.name, arrays[output.name]
        width = output.type.tensor_type.shape.dim[1].dim_value // len(own)
        scales, zeros = zip(*(uint8_of(ranges[part.name]) for part in own), strict=True)
        inputs = [f"{name}_float", f"{name}_scale", f"{name}_zero"]
        for tensor, of_parts in zip(inputs[1:], (scales, zeros), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.repeat(np.array(of_parts), width), tensor))
        (node,) = [node for node in graph.node if name in node.output]
        if node.op_type == "Cast":  # to float16, of which a scale would be of float16, too
            inputs[0] = node.input[0]
            graph.node.remove(node)
        else:
            node.output[:] = [inputs[0] if given == name else given for given in node.output]
        graph.node.append(helper.make_node("QuantizeLinear", inputs, [name], axis=1))
        output.type.tensor_type.elem_type = TensorProto.UINT8
    return small


def small_rank_graph(rank: onnx.ModelProto, parts: Sequence[Part], ranges: Ranges) -> onnx.ModelProto:
    """The rank graph in int8, which reads the arrays of these parts in eight bits.

    Args:
        rank: as `int8_graph` made it.
        parts: of the same graph in float32.
        ranges: of the parts, and of what is added to them.
    """
    small = onnx.ModelProto()
    small.CopyFrom(rank)
    graph, arrays = small.graph, _by_array(parts)
    for given in graph.input:
        if given.name in arrays:
            given.type.tensor_type.elem_type = TensorProto.UINT8
    names = [name for part in parts for name in (part.name, part.sum.other if part.sum else None) if name]
    for name in dict.fromkeys(names):
        for kind, number in zip(("scale", "zero"), uint8_of(ranges[name]), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.asarray(number), f"{name}_{kind}"))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(_rewritten(nodes, parts))
    return small


def small_state(state: Iterable[StateArray], parts: Iterable[Part]) -> tuple[StateArray, ...]:
    """The state arrays, those of these parts in eight bits."""
    arrays = {part.array for part in parts}
    return tuple(
        array.model_copy(update={"dtype": "uint8"}) if array.name in arrays else array for array in state
    )


def _rewritten(nodes: Iterable[NodeProto], parts: Iterable[Part]) -> Iterator[NodeProto]:
    """The nodes of a graph, with the sums in eight bits, and the other parts made float32 again."""
    sums = {part.sum.relu: (part, part.sum) for part in parts if part.sum}
    apart = {part.rows: part for part in parts if not part.sum}
    gone = {part.name for part in parts if part.name != part.rows}
    gone |= {name for _, each in sums.values() for name in (each.total, each.relu)}
    for node in nodes:
        output = node.output[0]
        if node.op_type == "QuantizeLinear" and node.input[0] in sums:
            yield from _added(*sums[node.input[0]], node)
        elif output in apart:
            inputs = [f"{output}_uint8", f"{apart[output].name}_scale", f"{apart[output].name}_zero"]
            node.output[0] = inputs[0]
            yield node
            yield helper.make_node("DequantizeLinear", inputs, [apart[output].name])
        elif output not in gone:
            yield node


def _added(part: Part, to: Sum, quantised: NodeProto) -> Iterator[NodeProto]:
    """What gives the ReLU of a sum in eight bits, in place of a node that brings it to these."""
    own, other = ([f"{name}_scale", f"{name}_zero"] for name in (part.name, to.other))
    addend = f"{part.name}_addend"
    yield helper.make_node("QuantizeLinear", [to.other, *other], [addend])
    operands = [part.rows, *own, addend, *other, *quantised.input[1:]]
    yield helper.make_node("QLinearAdd", operands, [*quantised.output], domain=RUNTIME)


def _by_array(parts: Iterable[Part]) -> dict[str, list[Part]]:
    """The parts of each array, as they come."""
    arrays: dict[str, list[Part]] = {}
    for part in parts:
        arrays.setdefault(part.array, []).append(part)
    return arrays


class _Nodes:
    """A graph, by what its nodes read and give."""

    def __init__(self, graph: onnx.GraphProto, entering: Sequence[str]) -> None:
        self._graph, self._entering = graph, entering
        self._giver = {name: node for node in graph.node for name in node.output}

    def parts(self, array: str) -> list[Part]:
        """Of a state array; none where something but gathers reads it."""
        readers = self._readers(array)
        if [node.op_type for node in readers] == ["Reshape"]:  # expert by expert
            readers = self._readers(readers[0].output[0])
        if {node.op_type for node in readers} != {"Gather"}:
            return []
        places = {node.input[1] for node in readers}
        split = self._giver.get(readers[0].input[1])
        if len(readers) > 1 and (split is None or split.op_type != "Split" or {*split.output} != places):
            return []  # in no order that is known
        return sorted((self._part(array, node, len(readers)) for node in readers), key=lambda p: p.number)

    def _part(self, array: str, gather: NodeProto, count: int) -> Part:
        rows, places = gather.output[0], gather.input[1]
        number = [*self._giver[places].output].index(places) if count > 1 else 0
        cast = self._only_reader(rows, "Cast")  # of float16
        name = cast.output[0] if cast else rows
        return Part(name, rows, array, number, self._sum(name))

    def _sum(self, name: str) -> Sum | None:
        added = self._only_reader(name, "Add")
        relu = self._only_reader(added.output[0], "Relu") if added else None
        if added is None or relu is None or relu.output[0] not in self._entering:
            return None
        if not self._only_reader(relu.output[0], "MatMul"):
            return None
        (other,) = [each for each in added.input if each != name]
        return Sum(other, added.output[0], relu.output[0])

    def _readers(self, name: str) -> list[NodeProto]:
        return [node for node in self._graph.node if name in node.input]

    def _only_reader(self, name: str, kind: str) -> NodeProto | None:
        readers = self._readers(name)
        return readers[0] if [node.op_type for node in readers] == [kind] else None
