"""The rank graph for a CPU: a node an expert where the exporter writes one for all of them.

Of an array ``[E, N, H]`` every expert's part ``[N, H]`` becomes an array of its own, from the gather of the
items' state to the experts' last layer. What is computed of a part stays in the core's own cache. And where
weights have two axes and not three, onnxruntime packs them once, when it reads the graph, and adds bias and
ReLU in the matmul's node. MMoE takes 10 to 18 % less time so, OMoE 8 to 11, PLE 3 to 4
(`benchmarks/graphs.py`). On a device, where a node should cost more than what it computes of a few rows, it
is not measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

LEAST_WEIGHTS = 1 << 14
"""of an expert's layer, for which the experts are parted; smaller ones gain nothing by themselves"""
SWAPPED = [1, 0, 2]
"""axes of ``[N, E, H]``, as a transpose brings the experts' outermost"""

Parts = Sequence[ir.Value]
"""an array's, an expert each"""


def by_expert(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The same scores to float error, large batched layers and what leads to them expert by expert.

    None where no layer is large, or none is of a shape that is known here.

    Args:
        model: a rank graph, as `training/layers.py` leads to it. It holds its weights.
    """
    made = ir.from_proto(model)
    nodes, experts = [*made.graph], _Experts(made.graph)
    if not experts.begin(nodes):
        return None
    experts.go_on(nodes)
    common.RemoveUnusedNodesPass()(made)
    common.TopologicalSortPass()(made)
    parted = ir.to_proto(made)
    del parted.graph.value_info[:]  # where shapes are left to onnxruntime, 100 rows take 2 % less time
    return parted


class _Experts:
    """A graph, and which of its arrays are there in parts by now."""

    def __init__(self, graph: ir.Graph) -> None:
        self._new = _NewNodes(graph)
        self._parts: dict[ir.Value, Parts] = {}
        """``[N, H]``, of arrays ``[E, N, H]``"""
        self._columns: dict[tuple[ir.Value, int], Parts] = {}
        """``[N, H]``, of arrays ``[N, E·H]``"""
        self._wholes: dict[ir.Value, ir.Value] = {}

    def begin(self, nodes: Iterable[ir.Node]) -> bool:
        """Part what enters a large layer: first layers of all experts, or mixtures of them. Was there one?"""
        for node in nodes:
            entering = _swapped_into(node) if _is_large(node) else None  # [N, E, H]
            source = None if entering is None else entering.producer()
            if entering is None or source is None or _inputs(node)[0] in self._parts:
                continue
            experts, width = _length(entering, 1), _length(entering, 2)
            match source.op_type:
                case "Reshape" if experts * width and _length(_inputs(source)[0], 1) == experts * width:
                    # of first layers side by side, [N, E·H]
                    self._know(entering, self._split(_inputs(source)[0], experts))
                case "MatMul":  # of gates [N, T, E] and experts [N, E, H]
                    self._split_mixtures(_inputs(source)[1])
        return bool(self._parts)

    def go_on(self, nodes: Iterable[ir.Node]) -> None:
        """Compute of parts part by part, up to a node that takes them as one."""
        for node in nodes:
            if not any(value in self._parts for value in node.inputs):
                continue
            parts = self._computed(node)
            if parts:
                self._parts[node.outputs[0]] = parts
                continue
            for at, value in enumerate(node.inputs):
                if value in self._parts:
                    node.replace_input_with(at, self._whole(value))

    def _know(self, rows: ir.Value, parts: Parts) -> None:
        """These are the parts of ``rows [N, E, H]`` wherever the expert axis is brought outermost."""
        swapped = [node.outputs[0] for node in rows.consumers() if _swaps(node)]
        self._parts |= {value: parts for value in swapped if _length(value, 2)}

    def _split_mixtures(self, experts: ir.Value) -> None:
        """Mix ``experts [N, E, H]`` for all their gates at once, and part the mixtures."""
        mixes = [node for node in experts.consumers() if node.op_type == "MatMul"]  # a matmul a kind of gates
        counts = [_length(node.outputs[0], 1) for node in mixes]
        if not all(counts):
            return
        gates = self._new.node("Concat", *(node.inputs[0] for node in mixes), axis=1)
        mixed = self._new.reshaped(self._new.node("MatMul", gates, experts), 0, -1)
        parts = self._new.split(mixed, sum(counts), axis=1)
        for node, end, count in zip(mixes, np.cumsum(counts), counts, strict=True):
            self._know(node.outputs[0], parts[end - count : end])

    def _split(self, columns: ir.Value, experts: int) -> Parts:
        """Parts of an array ``[N, E·H]``, each computed on its own from as far back as can be."""
        if (columns, experts) not in self._columns:
            self._columns[columns, experts] = self._split_anew(columns, experts)
        return self._columns[columns, experts]

    def _split_anew(self, columns: ir.Value, experts: int) -> Parts:
        node = columns.producer()
        if experts == 1:
            return [columns]
        if node is None:
            return self._new.split(columns, experts, axis=1)
        inputs, width = _inputs(node), _length(columns, 1)
        match node.op_type:
            case "Relu" | "Add" | "Cast" if all(_length(value, 1) == width for value in inputs):
                operands = [self._split(value, experts) for value in inputs]
                return [self._new.like(node, *each) for each in zip(*operands, strict=True)]
            case "MatMul" if _length(inputs[1], 1) == width:
                return [self._new.like(node, inputs[0], each) for each in self._split(inputs[1], experts)]
            case "Gather" if _length(inputs[0], 1) == width:
                return self._gathered(inputs[0], inputs[1], experts)
        return self._new.split(columns, experts, axis=1)

    def _gathered(self, state: ir.Value, rows: ir.Value, experts: int) -> Parts:
        """Parts of rows of ``state [items, E·H]``, which is read as ``[items·E, H]``: that copies nothing."""
        by_expert = self._new.reshaped(state, -1, _length(state, 1) // experts)
        first = self._new.node("Mul", rows, self._new.constant(np.int32(experts)))
        places = self._new.node("Add", first, self._new.constant(np.arange(experts, dtype=np.int32)[:, None]))
        each = self._new.split(self._new.reshaped(places, -1), experts, axis=0)
        return [self._new.node("Gather", by_expert, place, axis=0) for place in each]

    def _computed(self, node: ir.Node) -> Parts:
        """What a node computes, part by part; nothing where it needs its inputs whole."""
        inputs = [self._parts.get(value) or self._weights(value) for value in _inputs(node)]
        if not all(inputs) or not _length(node.outputs[0], 2):
            return ()
        count = max(map(len, inputs))  # one part goes through the layers of all
        match node.op_type:
            case "Concat" if node.attributes["axis"].as_int() == 0:
                return [part for parts in inputs for part in parts]
            case "MatMul" | "Add" | "Relu" if {*map(len, inputs)} <= {1, count}:
                operands = [parts if len(parts) == count else [*parts] * count for parts in inputs]
                return [self._new.like(node, *each) for each in zip(*operands, strict=True)]
        return ()

    def _weights(self, value: ir.Value) -> Parts:
        """Each expert's weights ``[H, H']`` or bias ``[1, H']``; nothing of what is neither."""
        weights = _weights(value)
        return () if weights is None else [self._new.constant(each) for each in weights.numpy()]

    def _whole(self, value: ir.Value) -> ir.Value:
        if value not in self._wholes:
            parts = self._parts[value]
            one_after_another = self._new.node("Concat", *parts, axis=0)
            self._wholes[value] = self._new.reshaped(one_after_another, len(parts), -1, _length(value, 2))
        return self._wholes[value]


class _NewNodes:
    """Nodes and constants that a graph gets; its nodes are out of order then."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def node(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        made = ir.node(operator, inputs, attributes=attributes)
        self._graph.append(made)
        return made.outputs[0]

    def like(self, node: ir.Node, *inputs: ir.Value) -> ir.Value:
        """The output of a new node that does with other inputs what a node does."""
        return self.node(node.op_type, *inputs, **node.attributes)

    def split(self, value: ir.Value, parts: int, axis: int) -> Parts:
        """Equal parts of an array."""
        attributes = {"axis": axis, "num_outputs": parts}
        made = ir.node("Split", [value], attributes=attributes, num_outputs=parts)
        self._graph.append(made)
        return made.outputs

    def reshaped(self, value: ir.Value, *shape: int) -> ir.Value:
        """An array in another shape, as ONNX writes it: 0 for a length that stays, -1 for what is left."""
        return self.node("Reshape", value, self.constant(np.array(shape)))

    def constant(self, array: Any) -> ir.Value:
        """A constant of its own."""
        name = f"by_expert_{len(self._graph.initializers)}"
        value = ir.val(name, const_value=ir.tensor(np.asarray(array), name=name))
        self._graph.register_initializer(value)
        return value


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _length(value: ir.Value, axis: int) -> int:
    """Of an axis; 0 where there is none such, or it is open."""
    length = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    return length if isinstance(length, int) else 0


def _swaps(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == SWAPPED


def _swapped_into(node: ir.Node) -> ir.Value | None:
    """What enters a node with its first two axes swapped; None where nothing does."""
    swap = _inputs(node)[0].producer()
    return _inputs(swap)[0] if swap is not None and _swaps(swap) else None


def _weights(value: ir.Value) -> ir.TensorProtocol | None:
    """Of a batched layer, ``[E, H, H']``; None of what is no such weights."""
    tensor = value.const_value
    return tensor if tensor is not None and len(tensor.shape) == 3 else None


def _is_large(node: ir.Node) -> bool:
    weights = _weights(_inputs(node)[1]) if node.op_type == "MatMul" else None
    return weights is not None and bool(np.prod(weights.shape.numpy()[1:]) >= LEAST_WEIGHTS)
