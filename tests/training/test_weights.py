"""Large weights are stored once, whatever graphs refer to them; small ones stay where they are."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.engine import EngineOptions, open_session
from training.weights import LEAST_BYTES, WEIGHTS_FILE, write_graphs

CPU = EngineOptions(provider="cpu")
LARGE = np.arange(2 * LEAST_BYTES // 4, dtype=np.float32)
OTHER = LARGE[::-1].copy()
SMALL = np.array([0.5], np.float32)


def graph(*weights: NDArray[np.float32], raw: bool = True) -> onnx.ModelProto:
    """A graph that adds up what its weights hold at x."""
    nodes, names = [], []
    for at in range(len(weights)):
        nodes.append(helper.make_node("Gather", [f"w{at}", "x"], [f"g{at}"]))
        names.append(f"g{at}")
    nodes.append(helper.make_node("Sum", names, ["y"]))
    tensors = [numpy_helper.from_array(weight, f"w{at}") for at, weight in enumerate(weights)]
    if not raw:
        tensors = [
            helper.make_tensor(f"w{at}", TensorProto.FLOAT, weight.shape, weight.tolist())
            for at, weight in enumerate(weights)
        ]
    made = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.INT32, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        tensors,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(folder: Path, name: str, x: list[int]) -> list[float]:
    """The numbers that a graph on disk gives."""
    found: list[float] = (
        open_session(folder / f"{name}.onnx", CPU).run(None, {"x": np.array(x, np.int32)})[0].tolist()
    )
    return found


@pytest.mark.parametrize("raw", [True, False], ids=["bytes", "floats"])
def test_a_large_weight_is_stored_once(tmp_path: Path, raw: bool) -> None:
    """Two graphs share it, one has another beside it, and both compute what they did."""
    write_graphs(tmp_path, {"one": graph(LARGE, raw=raw), "two": graph(LARGE, OTHER, raw=raw)}.items())
    size = (tmp_path / WEIGHTS_FILE).stat().st_size
    assert 2 * LARGE.nbytes <= size < 2 * LARGE.nbytes + mmap.ALLOCATIONGRANULARITY
    assert all((tmp_path / f"{name}.onnx").stat().st_size < 1000 for name in ("one", "two"))
    assert run(tmp_path, "one", [0, 5]) == [0, 5]
    assert run(tmp_path, "two", [0, 5]) == [LARGE[-1], LARGE[-1]]


def test_a_weight_begins_on_a_page(tmp_path: Path) -> None:
    """Or it could not be mapped into memory."""
    write_graphs(tmp_path, {"one": graph(LARGE[:-3], OTHER)}.items())
    stored = onnx.load(tmp_path / "one.onnx", load_external_data=False).graph.initializer
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in stored]
    assert [place["location"] for place in places] == [WEIGHTS_FILE] * 2
    assert [int(place["offset"]) % mmap.ALLOCATIONGRANULARITY for place in places] == [0, 0]
    assert [int(place["length"]) for place in places] == [LARGE[:-3].nbytes, OTHER.nbytes]


def test_a_small_weight_stays_in_its_graph(tmp_path: Path) -> None:
    """The file of weights is there all the same, so that every bundle has the same files."""
    write_graphs(tmp_path, {"one": graph(SMALL)}.items())
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == b""
    assert run(tmp_path, "one", [0]) == [0.5]


def test_graphs_move_together(tmp_path: Path) -> None:
    """Weights are found beside the graph, wherever the folder is moved."""
    (tmp_path / "here").mkdir()
    write_graphs(tmp_path / "here", {"one": graph(LARGE)}.items())
    (tmp_path / "here").rename(tmp_path / "there")
    assert run(tmp_path / "there", "one", [7]) == [7]


def test_one_graph_at_a_time_is_in_memory(tmp_path: Path) -> None:
    """Once the next is asked for, nobody holds the one before."""

    def graphs() -> Iterator[tuple[str, onnx.ModelProto]]:
        for name in ("one", "two", "three"):
            made = graph(LARGE)
            alone = sys.getrefcount(made)
            yield name, made
            assert sys.getrefcount(made) == alone

    write_graphs(tmp_path, graphs())
    assert run(tmp_path, "three", [7]) == [7]
