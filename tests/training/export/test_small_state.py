"""The items' state in eight bits: what the graphs compute with it, against the same written down in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.bundle.manifest import StateArray
from training.export.quantise import entering, int8_graph, uint8_of
from training.export.small_state import (
    parts_of,
    ranges_of,
    small_item_graph,
    small_rank_graph,
    small_state,
)

Floats = NDArray[np.float32]

ITEMS, EXPERTS, WIDE, UNITS = 30, 2, 256, 64
STATE = (
    StateArray(name="item_experts", shape=(0, EXPERTS * WIDE), item_axis=0),
    StateArray(name="item_gates", shape=(0, 8), item_axis=0),
)
NARROW = STATE[1].name
RELU = (0.0, 2.0)
"""of a sum: what is above ends there"""
EIGHT_BITS = np.float32(2.0 / 255)
WEIGHTS = np.random.default_rng(0).normal(size=(WIDE, UNITS)).astype(np.float32)
CONSTANTS: dict[str, NDArray[Any]] = {
    "by_expert": np.array([-1, WIDE]),
    "count": np.array(EXPERTS, np.int32),
    "which": np.arange(EXPERTS, dtype=np.int32)[:, None],
    "flat": np.array([-1]),
    "weights": WEIGHTS,
}


def rank(*, half: bool = False, crossed: bool = False, read_twice: bool = False) -> onnx.ModelProto:
    """``y_e = relu(item_e + user_e) @ weights``, expert by expert; of a cross part, too, if crossed."""
    nodes = [
        helper.make_node("Reshape", ["item_experts", "by_expert"], ["experts"]),
        helper.make_node("Mul", ["item_row", "count"], ["first"]),
        helper.make_node("Add", ["first", "which"], ["places"]),
        helper.make_node("Reshape", ["places", "flat"], ["all_places"]),
        helper.make_node("Split", ["all_places"], ["place0", "place1"], axis=0, num_outputs=EXPERTS),
        helper.make_node("Split", ["user_experts"], ["user0", "user1"], axis=1, num_outputs=EXPERTS),
        helper.make_node("Gather", ["item_gates", "item_row"], ["gates"], axis=0),
    ]
    for at in range(EXPERTS):
        nodes += expert(at, half=half, crossed=crossed, read_twice=read_twice)
    inputs: dict[str, list[str | int | None]] = {
        "item_experts": ["items", EXPERTS * WIDE],
        "item_gates": ["items", 8],
        "user_experts": ["R", EXPERTS * WIDE],
    }
    inputs |= {"cross": ["N", WIDE]} if crossed else {}
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    given[0].type.tensor_type.elem_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    given.append(helper.make_tensor_value_info("item_row", TensorProto.INT32, ["N"]))
    kinds = ("y", "minus") if read_twice else ("y",)
    names = ["gates", *(f"{kind}{at}" for kind in kinds for at in range(EXPERTS))]
    gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    tensors = [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    return model(helper.make_graph(nodes, "rank", given, gives, tensors))


def expert(at: int, *, half: bool, crossed: bool, read_twice: bool) -> list[NodeProto]:
    """One expert's nodes."""
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", ["experts", f"place{at}"], f"gathered{at}", {"axis": 0})
    ]
    if half:
        steps.append(("Cast", [steps[-1][2]], f"cast{at}", {"to": TensorProto.FLOAT}))
    steps.append(("Add", [f"user{at}", steps[-1][2]], f"total{at}", {}))
    if crossed:
        steps.append(("Add", [steps[-1][2], "cross"], f"crossed{at}", {}))
    steps.append(("Relu", [steps[-1][2]], f"relu{at}", {}))
    steps.append(("MatMul", [f"relu{at}", "weights"], f"y{at}", {}))
    if read_twice:
        steps.append(("Neg", [f"relu{at}"], f"minus{at}", {}))
    return [helper.make_node(kind, reads, [gives], **more) for kind, reads, gives, more in steps]


def item(*, half: bool = False) -> onnx.ModelProto:
    """``item_experts = -x``, as float16 if half."""
    nodes = [helper.make_node("Neg", ["x"], ["minus"] if half else ["item_experts"])]
    if half:
        nodes.append(helper.make_node("Cast", ["minus"], ["item_experts"], to=TensorProto.FLOAT16))
    nodes.append(helper.make_node("Abs", ["g"], ["item_gates"]))
    shapes = {"x": EXPERTS * WIDE, "g": 8}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["M", n]) for name, n in shapes.items()]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    outputs = [
        helper.make_tensor_value_info("item_experts", kind, ["M", EXPERTS * WIDE]),
        helper.make_tensor_value_info("item_gates", TensorProto.FLOAT, ["M", 8]),
    ]
    return model(helper.make_graph(nodes, "item", inputs, outputs))


def model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Of a graph."""
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(graph: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What a graph makes of arrays, by name."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    session = ort.InferenceSession(graph.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


class Small:
    """Both graphs in eight bits, of a state that is drawn."""

    def __init__(self, seed: int, **rank_of: bool) -> None:
        random = np.random.default_rng(seed)
        sizes = np.repeat(10.0 ** random.uniform(-1, 0.3, EXPERTS), WIDE)
        half = rank_of.get("half", False)
        self.items = (sizes * random.normal(0.2, 1, (ITEMS, EXPERTS * WIDE))).astype(np.float32)
        self.users = random.normal(0, 0.5, (7, EXPERTS * WIDE)).astype(np.float32)
        self.rows = random.integers(0, ITEMS, 7).astype(np.int32)
        self.cross = random.normal(0, 0.3, (7, WIDE)).astype(np.float32)
        self.wide = rank(**rank_of)
        names = entering(self.wide)
        self.parts = parts_of(self.wide, STATE, names)
        user = float(self.users.min()), float(self.users.max())
        self.ranges = ranges_of(self.parts, {"item_experts": self.items})
        self.ranges |= dict.fromkeys(("user0", "user1"), user) | dict.fromkeys(names, RELU)
        in_int8 = int8_graph(self.wide, {name: self.ranges[name] for name in names}, Path())
        self.in_int8 = in_int8
        self.rank = small_rank_graph(in_int8, self.parts, self.ranges)
        self.item = small_item_graph(item(half=half), self.parts, self.ranges)

    def state(self) -> dict[str, NDArray[Any]]:
        """Of all items, as their graph gives it."""
        return run(self.item, {"x": -self.items, "g": np.ones((ITEMS, 8), np.float32)})

    def feeds(self, users: Floats) -> dict[str, NDArray[Any]]:
        """Of a run."""
        return self.state() | {"item_row": self.rows, "user_experts": users}


def bits(numbers: Floats, of: tuple[float, float]) -> Floats:
    """Numbers as they are in eight bits of a range, each rounded by itself."""
    scale, zero = uint8_of(of)
    return np.asarray((np.clip(np.rint(numbers / scale) + zero, 0, 255) - zero) * scale, np.float32)


def naive(small: Small, at: int, users: Floats) -> Floats:
    """An expert's ReLU ``[N, H]``: what both parts are in eight bits, added, and brought to eight bits."""
    columns = slice(at * WIDE, (at + 1) * WIDE)
    part = small.parts[at]
    assert part.sum is not None
    own = bits(small.items[small.rows][:, columns], small.ranges[part.name])
    return bits(own + bits(users[:, columns], small.ranges[part.sum.other]), RELU)


def weights() -> Floats:
    """As they are in int8."""
    scale = np.abs(WEIGHTS).max(0) / np.float32(127)
    return np.asarray(np.rint(WEIGHTS / scale) * scale, np.float32)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_a_first_layer_is_a_sum_in_eight_bits(seed: int, alone: bool, half: bool) -> None:
    """As it is written down, one step of the sum's rounding apart at most; of one user or a user a row."""
    small = Small(seed, half=half)
    users = small.users[:1] if alone else small.users
    found = run(small.rank, small.feeds(users))
    # A sum that lies between two steps may be rounded to either of them.
    apart = EIGHT_BITS * np.abs(weights()).sum(0)
    for at in range(EXPERTS):
        expected = naive(small, at, users) @ weights()
        assert (np.abs(found[f"y{at}"] - expected) <= apart).all()
        assert np.median(np.abs(found[f"y{at}"] - expected)) < 0.02 * np.median(apart)
    kinds = [node.op_type for node in small.rank.graph.node]
    assert kinds.count("QLinearAdd") == EXPERTS
    assert {"Relu", "DequantizeLinear", "Cast"}.isdisjoint(kinds)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_items_graph_gives_each_part_in_steps_of_its_own(seed: int, half: bool) -> None:
    """Of 255 from the least to the greatest; narrow arrays stay as they are."""
    small = Small(seed, half=half)
    state = small.state()
    assert state["item_experts"].dtype == np.uint8
    np.testing.assert_array_equal(state[NARROW], 1)
    for part in small.parts:
        columns = slice(part.number * WIDE, (part.number + 1) * WIDE)
        scale, zero = uint8_of(small.ranges[part.name])
        found = (state["item_experts"][:, columns].astype(np.float32) - zero) * scale
        assert np.abs(found - small.items[:, columns]).max() <= 0.51 * scale
    assert [(array.name, array.dtype) for array in small_state(STATE, small.parts)] == [
        ("item_experts", "uint8"),
        ("item_gates", "float32"),
    ]


@pytest.mark.parametrize("otherwise", ["crossed", "read_twice"])
def test_where_more_than_a_layer_in_int8_reads_it_a_part_is_float32_again(otherwise: str) -> None:
    """The sum is then as exact as without; only what was kept has eight bits."""
    small = Small(3, **{otherwise: True})
    assert [part.sum for part in small.parts] == [None, None]
    more = {"cross": small.cross} if otherwise == "crossed" else {}
    found = run(small.rank, small.feeds(small.users) | more)
    own = np.concatenate(
        [
            bits(small.items[:, part.number * WIDE : (part.number + 1) * WIDE], small.ranges[part.name])
            for part in small.parts
        ],
        axis=1,
    )
    whole = {"item_experts": own, "item_gates": np.ones((ITEMS, 8), np.float32)}
    expected = run(small.in_int8, whole | {"item_row": small.rows, "user_experts": small.users} | more)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-3)


def test_an_array_that_is_read_otherwise_is_left_alone() -> None:
    """Whatever is no gather of it might need all of its bits."""
    graph = rank()
    graph.graph.node.append(helper.make_node("Identity", ["item_experts"], ["all"]))
    graph.graph.output.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, None))
    assert parts_of(graph, STATE, entering(graph)) == []


def test_parts_are_known_by_their_columns() -> None:
    """Not by the order in which the graph happens to gather them."""
    graph = rank()
    nodes = sorted(graph.graph.node, key=lambda node: node.output[0] == "gathered0")
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    found = parts_of(graph, STATE, entering(graph))
    assert [(part.name, part.number) for part in found] == [("gathered0", 0), ("gathered1", 1)]
    assert all(part.sum for part in found)
