"""The graphs of a bundle: the same scores as torch, split or whole, whatever the rows and however batched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from service.bundle.columns import Value
from service.bundle.golden import agree
from service.bundle.manifest import TaskSpec, graph_inputs
from service.bundle.rows import Encoded
from service.bundle.schema import Side
from service.engine import Engine, EngineOptions, open_session
from tests.training.worlds import ITEMS, Exported
from training.export.parity import flat_arrays
from training.graphs import Scores, state_arrays
from training.trained import torch_scores

CPU = EngineOptions(provider="cpu")
CONTEXT: dict[str, Value] = {"hour": 20, "tab": "search", "position": "3"}


@pytest.fixture(scope="module")
def engine(exported: Exported) -> Iterator[Engine]:
    """The bundle in onnxruntime, item by item and split."""
    engine = Engine(exported.folder, exported.manifest, exported.trained.encoder.items, CPU)
    yield engine
    engine.close()


def request(exported: Exported, rows: int, user: str | None = "u7", seed: int = 0) -> Encoded:
    """Candidates drawn with repeats; some unknown, some that bring fields of their own."""
    ids = [f"i{n}" for n in np.random.default_rng(seed).integers(0, ITEMS + 5, rows)]
    brought: dict[str, Any] = {"author": "a2", "length": 3.5, "tags": ["t1", "t7"], "clicks_1h": 90}
    inline = {at: brought for at in range(2, rows, 5)} | {at: {"clicks_1h": at} for at in range(3, rows, 5)}
    return exported.trained.encoder.request(user, {}, CONTEXT, ids, inline)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_all_graphs_agree_with_torch(exported: Exported, engine: Engine, rows: int) -> None:
    """flat.onnx and user + item + rank give torch's scores, for known, unknown and changed items."""
    encoded = request(exported, rows)
    expected = torch_scores(exported.trained, encoded)
    arrays = flat_arrays(exported.manifest, exported.trained.encoder, encoded)
    flat = open_session(exported.folder / "flat.onnx", CPU).run(None, arrays)
    split = engine.run([encoded])[0].scores
    assert list(split) == list(expected) == ["click", "like", "watch"]
    for task, scores in zip(expected, flat, strict=True):
        assert expected[task].shape == (rows,)
        assert agree(scores, expected[task])
        assert agree(split[task], expected[task])
    if rows == 1000:
        assert all(np.ptp(scores) > 1e-3 for scores in expected.values())  # agreeing is no small thing


def test_requests_in_one_run_are_as_if_alone(exported: Exported, engine: Engine) -> None:
    """Every candidate meets its own user, of whatever sizes the requests are."""
    requests = [
        request(exported, rows, user, seed)
        for seed, (rows, user) in enumerate([(7, "u7"), (1, "u1"), (40, None), (1, "u7"), (13, "nobody")])
    ]
    for encoded, together in zip(requests, engine.run(requests), strict=True):
        alone = engine.run([encoded])[0].scores
        expected = torch_scores(exported.trained, encoded)
        for task, scores in together.scores.items():
            assert agree(scores, alone[task])
            assert agree(scores, expected[task])


def test_the_user_counts(exported: Exported, engine: Engine) -> None:
    """Two users get different scores for the same items: the split does not lose the user's part."""
    ours, theirs = (engine.run([request(exported, 9, user)])[0].scores for user in ("u7", "u8"))
    assert all(not np.array_equal(ours[task], theirs[task]) for task in ours)


def test_graphs_read_what_the_schema_lays_out(exported: Exported) -> None:
    """Inputs by name, type and width; the first axis open; outputs named for the tasks and the state."""
    features, manifest = exported.manifest.features, exported.manifest
    state = {array.name for array in manifest.state}
    scores = {*manifest.outputs()}
    candidates = {*graph_inputs(features, Side.CROSS), "item_row", *state, *manifest.user_state}
    expected = {
        "user": ({*graph_inputs(features, Side.USER)}, {*manifest.user_state}),
        "item": ({*graph_inputs(features, Side.ITEM)}, state),
        "rank": (candidates, scores),
        "flat": ({*graph_inputs(features, *Side)}, scores),
    }
    for name, (inputs, outputs) in expected.items():
        graph = onnx.load(exported.folder / f"{name}.onnx", load_external_data=False).graph
        assert {given.name for given in graph.input} == inputs
        assert {given.name for given in graph.output} == outputs
        assert all(given.type.tensor_type.shape.dim[0].dim_param for given in (*graph.input, *graph.output))


def test_state_arrays_are_what_the_item_graph_gives(exported: Exported, engine: Engine) -> None:
    """One a projection, items first, the width as stated."""
    stated = state_arrays(exported.trained.model)
    assert stated == exported.manifest.state
    items = exported.trained.encoder.items
    session = open_session(exported.folder / "item.onnx", CPU)
    given: list[NDArray[Any]] = session.run(None, {"item_index": items.index, "item_value": items.value})
    assert [array.shape for array in given] == [(len(items), *spec.shape[1:]) for spec in stated]
    assert all(spec.item_axis == 0 and spec.shape[0] == 0 for spec in stated)


def test_a_graph_keeps_nothing_of_the_machine_it_was_made_on(exported: Exported) -> None:
    """The exporter's notes quote source files by their paths; a bundle goes elsewhere."""
    here = str(Path(__file__).parents[2]).encode()
    for path in exported.folder.glob("*.onnx"):
        content = path.read_bytes()
        assert here not in content
        assert b"stack_trace" not in content
        assert b".py" not in content


def test_a_logarithm_is_never_served_negative_or_infinite() -> None:
    """A label below 0 is learned as 0, so no score lies below it; and float32 holds the greatest one."""
    task = TaskSpec(name="watch", kind="regression", event="watch", transform="log1p")
    (scores,) = Scores([task])(torch.tensor([[-5.0, 0.0, 1.0, 1e6]]))
    assert scores[:3].tolist() == pytest.approx([0.0, 0.0, np.e - 1])
    assert scores.isfinite().all()
