"""The graphs of a bundle: the model's four faces as modules, and how each becomes ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from service.bundle.manifest import StateArray, TaskSpec, graph_inputs
from service.bundle.schema import FeatureSchema, Side
from training.models import MultiTaskModel

OPSET = 20

StateType = Literal["float32", "float16"]
DTYPES: Mapping[StateType, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
"""of the items' state, by name"""

MOST_LOG = 80.0
"""of a score that was learned as a logarithm; float32 ends at e^88"""

TRACE_ROWS = 3
"""rows in the example that a graph is traced with; any number but 1, which would be taken for a constant"""


class Scores(nn.Module):
    """Logits ``[T, N]`` -> a tuple of task scores ``[N]``: probabilities, or numbers in the task's unit."""

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def forward(self, logits: Tensor) -> tuple[Tensor, ...]:
        """One output a task, in order."""
        # One node for all tasks; of a regression's logit the sigmoid is not read.
        probabilities = logits.sigmoid().unbind(0)
        return tuple(
            probability if task.kind == "binary" else self._number(task, logit)
            for task, logit, probability in zip(self.tasks, logits.unbind(0), probabilities, strict=True)
        )

    @staticmethod
    def _number(task: TaskSpec, logit: Tensor) -> Tensor:
        # No label lies below log1p(0), and so no score below 0. ONNX has no operator for expm1.
        return logit.clamp(0.0, MOST_LOG).exp() - 1.0 if task.transform == "log1p" else logit


class SideGraph(nn.Module):
    """`user.onnx` or `item.onnx`: a side's arrays -> what it adds to each first layer, within its type."""

    def __init__(self, model: MultiTaskModel, side: Side, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.side = side
        self.dtype = dtype

    def forward(self, arrays: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """One output a projection, in order."""
        index, value = both(arrays, self.side)
        compute = self.model.user_side if self.side is Side.USER else self.model.item_side
        outputs = tuple(compute(index, value).values())
        if self.dtype is torch.float32:
            return outputs
        # An item of absurd numbers would be infinite, and its scores, of inf - inf, not a number.
        most = torch.finfo(self.dtype).max
        return tuple(output.clamp(-most, most).to(self.dtype) for output in outputs)


class RankGraph(nn.Module):
    """`rank.onnx`: user state, state arrays whole, item rows, cross arrays -> task scores."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.model = model
        self.scores = Scores(tasks)

    def forward(self, arrays: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """One output a task, in order."""
        user, item = (
            {name: arrays[state_name(side, name)] for name in self.model.projections}
            for side in (Side.USER, Side.ITEM)
        )
        item_row = arrays["item_row"]
        index, value = both(arrays, Side.CROSS, len_of=item_row)
        scores: tuple[Tensor, ...] = self.scores(self.model.rank_side(user, item, item_row, index, value))
        return scores


class FlatGraph(nn.Module):
    """`flat.onnx`: every feature per row -> task scores."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.model = model
        self.scores = Scores(tasks)

    def forward(self, arrays: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """One output a task, in order."""
        any_array = next(iter(arrays.values()))
        sides = [array for side in Side for array in both(arrays, side, len_of=any_array)]
        scores: tuple[Tensor, ...] = self.scores(self.model(*sides))
        return scores


def both(arrays: Mapping[str, Tensor], side: Side, len_of: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The index and value array of a side; one of width 0 where a graph has no such input."""
    index, value = arrays.get(f"{side}_index"), arrays.get(f"{side}_value")
    rows = next((array for array in (index, value, len_of) if array is not None), torch.empty(0))
    index = rows.new_zeros((rows.shape[0], 0), dtype=torch.int32) if index is None else index
    value = rows.new_zeros((rows.shape[0], 0), dtype=torch.float32) if value is None else value
    return index, value


def state_name(side: Side, projection: str) -> str:
    """Name of what a side adds to a first layer: an output of its graph, and an input of `rank.onnx`."""
    return f"{side}_{projection}"


def user_state(model: MultiTaskModel) -> tuple[str, ...]:
    """Names of what `user.onnx` of the model gives, in the order of the state arrays."""
    return tuple(state_name(Side.USER, name) for name in model.projections)


def state_arrays(model: MultiTaskModel, dtype: StateType = "float32") -> tuple[StateArray, ...]:
    """What `item.onnx` of the model gives, the item axis written as 0."""
    slots = model.item.slots
    one = model.item_side(torch.zeros(1, slots.indices, dtype=torch.int32), torch.zeros(1, slots.values))
    return tuple(
        StateArray(name=state_name(Side.ITEM, name), dtype=dtype, shape=(0, *output.shape[1:]), item_axis=0)
        for name, output in one.items()
    )


def user_graph(model: MultiTaskModel, features: FeatureSchema) -> onnx.ModelProto:
    """`user.onnx`."""
    return _side_graph(model, features, Side.USER, rows="R")


def item_graph(
    model: MultiTaskModel, features: FeatureSchema, dtype: StateType = "float32"
) -> onnx.ModelProto:
    """`item.onnx`, which gives state of that type."""
    return _side_graph(model, features, Side.ITEM, rows="M", dtype=DTYPES[dtype])


def flat_graph(model: MultiTaskModel, features: FeatureSchema, tasks: Sequence[TaskSpec]) -> onnx.ModelProto:
    """`flat.onnx`."""
    arrays = example(graph_inputs(features, *Side))
    rows = dict.fromkeys(arrays, "N")
    return _export(FlatGraph(model, tasks), arrays, rows, [task.name for task in tasks])


def rank_graph(
    model: MultiTaskModel, features: FeatureSchema, tasks: Sequence[TaskSpec], dtype: StateType = "float32"
) -> onnx.ModelProto:
    """`rank.onnx`, which reads state of that type and computes in float32."""
    cross = example(graph_inputs(features, Side.CROSS))
    state = state_arrays(model)
    items = {
        array.name: torch.zeros(2 * TRACE_ROWS, *array.shape[1:], dtype=DTYPES[dtype]) for array in state
    }
    users = {
        name: torch.zeros(1, *array.shape[1:]) for name, array in zip(user_state(model), state, strict=True)
    }
    arrays = users | items | {"item_row": torch.zeros(TRACE_ROWS, dtype=torch.int32)} | cross
    rows = dict.fromkeys(arrays, "N") | dict.fromkeys(items, "items") | dict.fromkeys(users)
    graph = _export(RankGraph(model, tasks), arrays, rows, [task.name for task in tasks])
    for given in graph.graph.input:
        # Traced with one user, whose state every candidate adds. The sum broadcasts, so N users do as well.
        if given.name in users:
            given.type.tensor_type.shape.dim[0].dim_param = "R"
    return graph


def _side_graph(
    model: MultiTaskModel,
    features: FeatureSchema,
    side: Side,
    rows: str,
    dtype: torch.dtype = torch.float32,
) -> onnx.ModelProto:
    arrays = example(graph_inputs(features, side))
    outputs = [state_name(side, name) for name in model.projections]
    return _export(SideGraph(model, side, dtype), arrays, dict.fromkeys(arrays, rows), outputs)


def example(inputs: Mapping[str, tuple[str, int]]) -> dict[str, Tensor]:
    """Arrays of zeros to trace with."""
    kinds = {"int32": torch.int32, "float32": torch.float32}
    return {name: torch.zeros(TRACE_ROWS, width, dtype=kinds[kind]) for name, (kind, width) in inputs.items()}


def _export(
    module: nn.Module, arrays: Mapping[str, Tensor], rows: Mapping[str, str | None], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Trace and translate; `rows` names the first axis of every input whose length is open."""
    dims = {name: torch.export.Dim(name) for name in set(rows.values()) if name}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            kwargs={"arrays": dict(arrays)},
            input_names=list(arrays),
            output_names=list(outputs),
            dynamic_shapes={
                "arrays": {name: {0: dims[axis]} if (axis := rows[name]) else {} for name in arrays}
            },
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter gave no graph")
    return bare(program.model_proto)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes, which quote the trainer's source and its place; nothing reads them."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.input,
        *graph.output,
        *graph.node,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that are not there and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
