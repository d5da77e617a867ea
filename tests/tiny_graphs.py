"""The tiny bundle's model: an MMoE of random weights, its four graphs, and its scores by numpy.

The graphs are written out node by node, so that they prove the contract without the trainer. With ``E``
experts of ``H`` and then ``K`` numbers, ``T`` tasks::

    first  = user + item + cross                      [N, E * H] of experts, [N, T * E] of gates
    expert = relu(relu(first) @ deep + bias)          [E, N, K]
    logit  = sum over e of softmax(gate)[t, e] * expert[e] . tower[t] + bias[t]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from service.bundle.manifest import TaskSpec, graph_inputs
from service.bundle.rows import Columns
from service.bundle.schema import FeatureSchema, Layout, Side

EMBEDDING, EXPERTS, HIDDEN, OUT = 4, 3, 8, 6
OPSET, IR_VERSION = 18, 9
WEIGHTS_FILE = "weights.bin"

Floats = NDArray[np.float32]
Array = NDArray[np.float64]
Shapes = dict[str, list[int | str]]


@dataclass(frozen=True, slots=True)
class Weights:
    """Random weights of the model.

    Attributes:
        embeddings: ``[rows of all vocabularies, EMBEDDING]``.
        offsets: the row where each vocabulary begins.
        experts: ``[E, inputs of the side, H]`` a side.
        gates: ``[inputs of the side, T * E]`` a side.
        biases: of the first layer's experts ``[E, 1, H]`` and gates ``[T * E]``.
        deep: ``[E, H, K]`` and its bias ``[E, 1, K]``.
        towers: ``[T, K]`` and their bias ``[T]``.
    """

    embeddings: Floats
    offsets: dict[str, int]
    experts: dict[Side, Floats]
    gates: dict[Side, Floats]
    biases: tuple[Floats, Floats]
    deep: tuple[Floats, Floats]
    towers: tuple[Floats, Floats]

    @staticmethod
    def draw(schema: FeatureSchema, tasks: int, seed: int) -> Weights:
        """Weights for the schema's arrays."""
        rng = np.random.default_rng(seed)

        def normal(*shape: int, scale: float = 0.3) -> Floats:
            return rng.normal(0, scale, shape).astype(np.float32)

        offsets, rows = {}, 0
        for name, spec in schema.fitted.vocabularies.items():
            offsets[name], rows = rows, rows + spec.rows
        widths = {side: _width(schema.layout(side)) for side in Side}
        return Weights(
            embeddings=normal(rows, EMBEDDING, scale=1.0),
            offsets=offsets,
            experts={side: normal(EXPERTS, width, HIDDEN) for side, width in widths.items()},
            gates={side: normal(width, tasks * EXPERTS) for side, width in widths.items()},
            biases=(normal(EXPERTS, 1, HIDDEN), normal(tasks * EXPERTS)),
            deep=(normal(EXPERTS, HIDDEN, OUT), normal(EXPERTS, 1, OUT)),
            towers=(normal(tasks, OUT, scale=0.6), normal(tasks)),
        )


def predict(
    schema: FeatureSchema, tasks: Sequence[TaskSpec], weights: Weights, sides: Sequence[Columns]
) -> dict[str, Floats]:
    """Task scores ``[N]`` of rows of user (one for all, or ``N``), item and cross; in float64."""
    experts, gates = (bias.astype(np.float64) for bias in weights.biases)
    for side, columns in zip(Side, sides, strict=True):
        x = _numbers(schema.layout(side), columns, weights)
        experts, gates = experts + x @ weights.experts[side], gates + x @ weights.gates[side]
    deep = np.maximum(np.maximum(experts, 0) @ weights.deep[0] + weights.deep[1], 0)
    shares = np.exp(gates.reshape(len(gates), len(tasks), EXPERTS))
    mixed = np.einsum("nte,enk->ntk", shares / shares.sum(axis=2, keepdims=True), deep)
    logits = np.einsum("ntk,tk->tn", mixed, weights.towers[0]) + weights.towers[1][:, None]
    scores = [
        1 / (1 + np.exp(-logit)) if task.kind == "binary" else np.expm1(logit)
        for task, logit in zip(tasks, logits, strict=True)
    ]
    return {task.name: score.astype(np.float32) for task, score in zip(tasks, scores, strict=True)}


def write_graphs(
    folder: Path, schema: FeatureSchema, tasks: Sequence[TaskSpec], weights: Weights, *, half: bool = False
) -> None:
    """Write `user.onnx`, `item.onnx`, `rank.onnx`, `flat.onnx`, and the embeddings that they share.

    `half`: the items' state is float16.
    """
    (folder / WEIGHTS_FILE).write_bytes(weights.embeddings.tobytes())
    scores: Shapes = {task.name: ["n"] for task in tasks}
    widths = {"experts": EXPERTS * HIDDEN, "gates": len(tasks) * EXPERTS}
    kinds = {Side.USER: TensorProto.FLOAT, Side.ITEM: TensorProto.FLOAT16 if half else TensorProto.FLOAT}
    for side, kind in kinds.items():
        graph = Graph(schema, weights, [side])
        shapes: Shapes = {f"{side}_{name}": ["n", width] for name, width in widths.items()}
        state = [graph.op("Cast", part, to=kind) for part in graph.first(side)]
        graph.write(folder / f"{side}.onnx", shapes, state, kind)

    rank = Graph(schema, weights, [Side.CROSS])
    rank.take("item_row", TensorProto.INT32, ["n"])
    for side, kind in kinds.items():
        for name, width in widths.items():
            rank.take(f"{side}_{name}", kind, [f"{side}s", width])
    experts, gates = (
        rank.op("Cast", rank.op("Gather", f"item_{name}", "item_row", axis=0), to=TensorProto.FLOAT)
        for name in widths
    )
    cross = [rank.first(Side.CROSS)] if graph_inputs(schema, Side.CROSS) else []
    rank.write(
        folder / "rank.onnx",
        scores,
        rank.head([("user_experts", "user_gates"), (experts, gates), *cross], tasks),
    )

    flat = Graph(schema, weights, list(Side))
    parts = [flat.first(side) for side in Side if graph_inputs(schema, side)]
    flat.write(folder / "flat.onnx", scores, flat.head(parts, tasks))


class Graph:
    """A graph under construction: every operation gives the name of its output."""

    def __init__(self, schema: FeatureSchema, weights: Weights, sides: Sequence[Side]) -> None:
        self._schema = schema
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        for name, (dtype, width) in graph_inputs(schema, *sides).items():
            self.take(name, TensorProto.INT32 if dtype == "int32" else TensorProto.FLOAT, ["n", width])

    def take(self, name: str, dtype: int, shape: list[int | str]) -> None:
        """Declare an input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def first(self, side: Side) -> tuple[str, str]:
        """What a side adds to the first layers of experts and gates; the user's part holds the bias."""
        x, experts = self._numbers(side), self._weights.experts[side]
        outermost = experts.transpose(1, 0, 2).reshape(-1, EXPERTS * HIDDEN)
        parts = [
            self.op("MatMul", x, self.constant(weight)) for weight in (outermost, self._weights.gates[side])
        ]
        if side is Side.USER:
            biases = (self.constant(bias.reshape(-1)) for bias in self._weights.biases)
            parts = [self.op("Add", part, bias) for part, bias in zip(parts, biases, strict=True)]
        return parts[0], parts[1]

    def head(self, parts: Sequence[tuple[str, str]], tasks: Sequence[TaskSpec]) -> list[str]:
        """Task scores ``[n]`` from what the sides add to the first layers."""
        experts, gates = parts[0]
        for more_experts, more_gates in parts[1:]:
            experts, gates = self.op("Add", experts, more_experts), self.op("Add", gates, more_gates)
        (deep, deep_bias), (towers, tower_bias) = self._weights.deep, self._weights.towers
        by_expert = self.op("Reshape", experts, self.constant([-1, EXPERTS, HIDDEN], np.int64))
        experts = self.op("Transpose", by_expert, perm=[1, 0, 2])
        deeper = self.op("MatMul", self.op("Relu", experts), self.constant(deep))
        deeper = self.op("Relu", self.op("Add", deeper, self.constant(deep_bias)))
        by_task = self.op("Reshape", gates, self.constant([-1, len(tasks), EXPERTS], np.int64))
        shares = self.op("Softmax", by_task, axis=2)
        mixed = self.op("MatMul", shares, self.op("Transpose", deeper, perm=[1, 0, 2]))
        weighed = self.op("Mul", mixed, self.constant(towers))
        logits = self.op("ReduceSum", weighed, self.constant([2], np.int64), keepdims=0)
        logits = self.op("Add", logits, self.constant(tower_bias))
        return [self._score(task, logits, at) for at, task in enumerate(tasks)]

    def write(
        self, path: Path, shapes: Shapes, outputs: Sequence[str], kind: int = TensorProto.FLOAT
    ) -> None:
        """Write the graph, its outputs under the names of the shapes."""
        nodes = [helper.make_node("Identity", [o], [name]) for o, name in zip(outputs, shapes, strict=True)]
        infos = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
        graph = helper.make_graph(
            [*self._nodes, *nodes], path.stem, self._inputs, infos, [*self._constants, self._embeddings()]
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(path, full_check=True)

    def _numbers(self, side: Side) -> str:
        """Embeddings (means of pooled ones) and values of a side, ``[n, width]``."""
        layout, parts = self._schema.layout(side), []
        if layout.index_width:
            offsets = self.constant(_offsets(layout, self._weights), np.int32)
            rows = self.op("Add", f"{side}_index", offsets)
            embedded = self.op("Gather", "embeddings", rows, axis=0)
            singles = [block for block in layout.index if not block.pooled]
            if singles:
                parts.append(self.op("Flatten", self._slots(embedded, slice(0, len(singles))), axis=1))
            for block in layout.index:
                if block.pooled:
                    parts.append(self._mean(f"{side}_index", embedded, block.slots))
        if layout.value_width:
            parts.append(f"{side}_value")
        return self.op("Concat", *parts, axis=1)

    def _mean(self, index: str, embedded: str, slots: slice) -> str:
        axis = self.constant([1], np.int64)
        known = self.op("Greater", self._slots(index, slots), self.constant(0, np.int32))
        mask = self.op("Cast", known, to=TensorProto.FLOAT)
        column = self.op("Unsqueeze", mask, self.constant([2], np.int64))
        total = self.op("ReduceSum", self.op("Mul", self._slots(embedded, slots), column), axis, keepdims=0)
        count = self.op("Max", self.op("ReduceSum", mask, axis), self.constant(1))
        return self.op("Div", total, count)

    def _slots(self, array: str, slots: slice) -> str:
        bounds = [self.constant([bound], np.int64) for bound in (slots.start, slots.stop, 1)]
        return self.op("Slice", array, *bounds)

    def _score(self, task: TaskSpec, logits: str, at: int) -> str:
        logit = self.op("Gather", logits, self.constant(at, np.int64), axis=1)
        if task.kind == "binary":
            return self.op("Sigmoid", logit)
        return self.op("Sub", self.op("Exp", logit), self.constant(1))

    def _embeddings(self) -> TensorProto:
        """The embeddings, which lie in a file beside the graph."""
        tensor = numpy_helper.from_array(self._weights.embeddings, "embeddings")
        set_external_data(tensor, WEIGHTS_FILE, 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
        return tensor


def _numbers(layout: Layout, columns: Columns, weights: Weights) -> Array:
    """What `Graph.first` multiplies, ``[n, width]``."""
    embedded = weights.embeddings[columns.index + _offsets(layout, weights)].astype(np.float64)
    parts = [np.zeros((len(columns), 0))]
    for block in layout.index:
        rows = embedded[:, block.slots]
        if block.pooled:
            known = columns.index[:, block.slots, None] > 0
            parts.append((rows * known).sum(axis=1) / np.maximum(known.sum(axis=1), 1))
        else:
            parts.append(rows[:, 0])
    return np.concatenate([*parts, columns.value], axis=1)


def _offsets(layout: Layout, weights: Weights) -> NDArray[np.int32]:
    """The row of the embeddings where each slot's vocabulary begins."""
    return np.array(
        [weights.offsets[block.vocabulary or ""] for block in layout.index for _ in range(block.width)],
        np.int32,
    )


def _width(layout: Layout) -> int:
    """Numbers of a side: an embedding a block of the index, and the values."""
    return EMBEDDING * len(layout.index) + layout.value_width
