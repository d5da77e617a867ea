"""The engine refuses what is not what the manifest states: graphs, arrays, providers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest, TaskSpec
from service.engine import Engine, EngineOptions, open_session
from tests.service.test_engine import CPU, has_device
from tests.tiny import Tiny, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A sound bundle, whose manifest the tests restate."""
    return write_tiny(tmp_path_factory.mktemp("models"), "v1")


def alter_graph(path: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    """Change a graph on disk."""
    model = onnx.load(path, load_external_data=False)
    change(model.graph)
    onnx.save_model(model, path)


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give an input or output another name."""
    for array in (*graph.input, *graph.output):
        array.name = new if array.name == old else array.name
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def restated(manifest: Manifest, **changes: Any) -> Manifest:
    """What the manifest could claim instead."""
    return manifest.model_copy(update=changes)


def open_engine(tiny: Tiny, manifest: Manifest | None = None) -> Engine:
    """An engine of what lies in the folder now."""
    return Engine(tiny.folder, manifest or tiny.manifest, tiny.encoder.items, CPU)


@pytest.fixture
def spoilt(tmp_path: Path) -> Tiny:
    """A bundle to spoil."""
    return write_tiny(tmp_path, "v1")


@pytest.mark.parametrize(
    ("graph", "old", "new", "message"),
    [
        (
            "user",
            "user_index",
            "users",
            r"inputs of user\.onnx are \['user_value', 'users'\]; the manifest states",
        ),
        ("user", "user_gates", "gates", r"outputs of user\.onnx"),
        ("item", "item_value", "values", r"inputs of item\.onnx"),
        ("item", "item_gates", "gates", r"outputs of item\.onnx"),
        ("rank", "item_row", "row", r"inputs of rank\.onnx"),
        ("rank", "cross_index", "index", r"inputs of rank\.onnx"),
        ("rank", "item_experts", "experts", r"inputs of rank\.onnx"),
        ("rank", "click", "tap", r"outputs of rank\.onnx are .*'tap'.*; the manifest states .*'click'"),
    ],
)
def test_graphs_of_other_names_are_refused(
    spoilt: Tiny, graph: str, old: str, new: str, message: str
) -> None:
    """Both lists of names are shown."""
    alter_graph(spoilt.folder / f"{graph}.onnx", lambda proto: rename(proto, old, new))
    with pytest.raises(BundleError, match=message):
        open_engine(spoilt)


def test_a_manifest_of_other_tasks_is_refused(tiny: Tiny) -> None:
    """A task more, a task less, and a task by another name."""
    click, like, watch = tiny.manifest.tasks
    buy = TaskSpec(name="buy", kind="binary", event="buy")
    for tasks in ((click, like, watch, buy), (click, like), (click, buy, watch)):
        with pytest.raises(BundleError, match=r"outputs of rank\.onnx"):
            open_engine(tiny, restated(tiny.manifest, tasks=tasks))


def test_a_manifest_of_other_state_is_refused(tiny: Tiny) -> None:
    """Another width, another rank, another type, or not one array of the user's for each of the items'."""
    experts, gates = tiny.manifest.state
    for other in (
        gates.model_copy(update={"shape": (0, 10)}),
        gates.model_copy(update={"shape": (0, 9, 1)}),
        gates.model_copy(update={"dtype": "float16"}),
    ):
        with pytest.raises(BundleError, match=r"_gates is tensor\(float\) \[0, 9\]; the manifest states"):
            open_engine(tiny, restated(tiny.manifest, state=(experts, other)))
    with pytest.raises(BundleError, match="differ in length"):
        open_engine(tiny, restated(tiny.manifest, user_state=("user_experts",)))


def test_state_without_an_item_a_row_is_refused(tiny: Tiny) -> None:
    """Another axis would have to be gathered value by value."""
    experts, gates = tiny.manifest.state
    other = experts.model_copy(update={"shape": (24, 0), "item_axis": 1})
    with pytest.raises(BundleError, match=r"\['item_experts'\] have no item a row; export .*item_axis 0"):
        open_engine(tiny, restated(tiny.manifest, state=(other, gates)))


def test_a_schema_of_other_widths_is_refused(tiny: Tiny) -> None:
    """A feature more or less than the graphs were made for, on any side."""
    features = tiny.manifest.features
    for left_out, array in (("age", "user_value"), ("author", "item_index"), ("clicks_1h", "cross_value")):
        kept = tuple(
            feature
            for feature in features.features
            if feature.name != left_out
            and left_out not in (*getattr(feature, "of", ()), getattr(feature, "item", ""))
        )
        narrower = features.model_copy(update={"features": kept})
        with pytest.raises(BundleError, match=f"{array} is tensor"):
            open_engine(tiny, restated(tiny.manifest, features=narrower))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x08\x07"], ids=["empty", "garbage", "cut off"])
def test_what_is_no_graph_is_refused(spoilt: Tiny, content: bytes) -> None:
    """With the file's name and onnxruntime's reason."""
    (spoilt.folder / "rank.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"^rank\.onnx cannot be read: "):
        open_engine(spoilt)


def test_a_missing_graph_or_missing_weights_are_refused(spoilt: Tiny) -> None:
    """Also where the graph is there and what it refers to is not."""
    (spoilt.folder / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"\.onnx cannot be read: .*weights"):
        open_engine(spoilt)
    (spoilt.folder / "item.onnx").unlink()
    with pytest.raises(BundleError, match=r"^(item|user)\.onnx cannot be read: "):
        open_engine(spoilt)


def test_items_that_break_the_graph_are_refused(tiny: Tiny) -> None:
    """Rows beyond the embedding table, say: the reason, and no onnxruntime error."""
    items = tiny.encoder.items.take(np.arange(5))
    items.index[3] = 10**6
    with pytest.raises(BundleError, match=r"^the items' state cannot be computed: .*out of .*bounds"):
        Engine(tiny.folder, tiny.manifest, items, CPU)


@pytest.mark.skipif(has_device(), reason="there is a CUDA device")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_where_there_is_none_is_an_error(tiny: Tiny) -> None:
    """Who asks for CUDA must not get a CPU in silence; the message says what to do."""
    with pytest.raises(BundleError, match=r"CUDA was asked for .*install rankserve\[cuda\] or use auto"):
        open_session(tiny.folder / "rank.onnx", EngineOptions(provider="cuda"))
