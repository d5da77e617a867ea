"""What does a graph spend its time on? Nodes and time by operator, of every architecture.

    python -m benchmarks.graphs [--rows 500] [--items 20000] [--models mmoe ple]

`rank.onnx`, the same expert by expert where a layer is large, that in int8, and `flat.onnx` of untrained
models over 20 user and 12 item fields, by onnxruntime alone on prebuilt tensors, one thread, no spinning. A
node is one that runs, after onnxruntime has fused and folded; its time is the median by onnxruntime's
profiler, which takes a little itself. What a graph takes as a whole is measured without it, all in turns, in
time of the processor, to which other programs add little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks.machine import describe
from service.bundle.kinds import Fitted, VocabularySpec
from service.bundle.manifest import StateArray, TaskSpec, graph_inputs
from service.bundle.schema import FeatureSchema, Side
from training.examples import model_inputs
from training.export.by_expert import by_expert
from training.export.quantise import entering, int8_graph, showing
from training.export.small_state import parts_of, ranges_of, small_rank_graph
from training.graphs import flat_graph, rank_graph, state_arrays, user_state
from training.models import ModelConfig, build

Feeds = dict[str, NDArray[Any]]

FIELDS = {"user": 20, "item": 12}
CATEGORIES = 1_000
"""of each field"""
TASKS = ("click", "like", "follow", "comment", "forward", "long_view")
FUNNEL = (
    TaskSpec(name="click", kind="binary", event="click"),
    TaskSpec(name="buy_given_click", kind="binary", event="buy", given="click"),
    TaskSpec(name="buy", kind="binary", event="buy"),
)
LEVELS = {"levels": [[256], [128]], "tower_hidden": [64]}
EXPERTS = {"experts": 8, "expert_hidden": [256, 128], "tower_hidden": [64]}
MODELS: dict[str, tuple[Mapping[str, Any], int]] = {
    "shared_bottom": ({"bottom_hidden": [256, 128], "tower_hidden": [64]}, 6),
    "omoe": (EXPERTS, 6),
    "mmoe": (EXPERTS, 6),
    "stacked_mmoe": ({"name": "ple", "specific_experts": 0, "shared_experts": 8, **LEVELS}, 4),
    "ple": ({"specific_experts": 1, "shared_experts": 4, **LEVELS}, 4),
    "esmm": ({"hidden": [256, 128, 64]}, 0),
}
"""the ``[model]`` section and how many tasks; with none, those of a funnel"""
RUNS = 60
BLOCK = 5
"""runs of a graph in a row: what it needs is then in the cache, as it is for a service"""


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a graph's time goes: milliseconds and nodes by operator."""

    took_ms: Mapping[str, float]
    nodes: Mapping[str, int]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500, help="candidates a run [%(default)s]")
    parser.add_argument("--items", type=int, default=20_000, help="rows of the state arrays [%(default)s]")
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS], help="[all]")
    options = parser.parse_args()
    print(describe())
    print(f"{options.rows} rows of {options.items:,} items, one thread\n")
    torch.manual_seed(0)
    for name in options.models:
        report(name, options.rows, options.items)


def report(name: str, rows: int, items: int) -> None:
    """Print what the graphs of a model take, and on what."""
    graphs = made(name, rows, items)
    whole = in_turns({graph: (session(model), feeds) for graph, (model, feeds) in graphs.items()})
    for graph, (model, feeds) in graphs.items():
        found = profile(model, feeds)
        times = whole["flat"] / whole[graph]
        print(f"{name} {graph}: {sum(found.nodes.values())} nodes, {whole[graph]:.2f} ms, {times:.2f} x flat")
        for operator in sorted(found.took_ms, key=lambda each: -found.took_ms[each]):
            print(f"    {operator:22} {found.nodes[operator]:3} nodes {found.took_ms[operator]:8.3f} ms")
    print()


def made(name: str, rows: int, items: int) -> dict[str, tuple[onnx.ModelProto, Feeds]]:
    """The graphs of a model that score, each with tensors to run it on."""
    section, count = MODELS[name]
    tasks = [TaskSpec(name=task, kind="binary", event=task) for task in TASKS[:count]] or [*FUNNEL]
    config: Any = TypeAdapter(ModelConfig).validate_python({"name": name, **section})
    features = _schema()
    model = build(config, model_inputs(features), tasks).eval()
    random = np.random.default_rng(0)
    rank: Feeds = {"item_row": random.integers(0, items, rows, dtype=np.int32)}
    for user, array in zip(user_state(model), state_arrays(model), strict=True):
        rank[user] = random.normal(size=(1, *array.shape[1:])).astype(np.float32)
        rank[array.name] = random.standard_normal((items, *array.shape[1:]), np.float32)
    flat: Feeds = {
        array: random.integers(0, CATEGORIES, (rows, width), dtype=np.int32)
        for array, (_, width) in graph_inputs(features, *Side).items()
    }
    batched = rank_graph(model, features, tasks)
    graphs = {"rank": (batched, rank)}
    if (parted := by_expert(batched)) is not None:
        graphs |= {"rank by expert": (parted, rank)} | in_int8(parted, state_arrays(model), rank)
    return graphs | {"flat": (flat_graph(model, features, tasks), flat)}


def in_int8(
    model: onnx.ModelProto, state: Sequence[StateArray], feeds: Feeds
) -> dict[str, tuple[onnx.ModelProto, Feeds]]:
    """A graph in int8, with state in float32 and in eight bits; ranges are as these tensors have them."""
    entered = entering(model)
    parts = parts_of(model, state, entered)
    names = list(dict.fromkeys([*entered, *(part.sum.other for part in parts if part.sum)]))
    arrays = session(showing(model, names)).run(names, feeds)
    ranges = {name: (array.min(), array.max()) for name, array in zip(names, arrays, strict=True)}
    made = int8_graph(model, {name: ranges[name] for name in entered}, Path())
    eight_bits = {part.array: (feeds[part.array] * 32 + 128).astype(np.uint8) for part in parts}
    ranges |= ranges_of(parts, feeds)
    return {
        "rank int8": (made, feeds),
        "rank int8, small state": (small_rank_graph(made, parts, ranges), feeds | eight_bits),
    }


def _schema() -> FeatureSchema:
    """Categorical fields of users and items, each with a vocabulary of its own."""
    names = {f"{side}_{at}": f"{side}.field_{at}" for side, count in FIELDS.items() for at in range(count)}
    features = [{"kind": "categorical", "name": name, "source": source} for name, source in names.items()]
    fitted = Fitted(vocabularies={name: VocabularySpec(rows=CATEGORIES + 1) for name in names})
    return FeatureSchema.model_validate({"features": features}).model_copy(update={"fitted": fitted})


def session(model: onnx.ModelProto, profile_to: Path | None = None) -> ort.InferenceSession:
    """One thread, as a worker of the service runs it."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_to is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile_to)
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def in_turns(graphs: Mapping[str, tuple[ort.InferenceSession, Feeds]]) -> dict[str, float]:
    """Median milliseconds of the processor for a run of each, measured block by block in turns."""
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(RUNS // BLOCK):
        for name, (run, feeds) in graphs.items():
            run.run(None, feeds)
            for _ in range(BLOCK):
                started = time.thread_time()
                run.run(None, feeds)
                taken[name].append(1e3 * (time.thread_time() - started))
    return {name: median(times) for name, times in taken.items()}


def profile(model: onnx.ModelProto, feeds: Feeds) -> Profile:
    """The medians of every node, added up by operator."""
    with tempfile.TemporaryDirectory() as folder:
        run = session(model, Path(folder) / "profile")
        for _ in range(RUNS):
            run.run(None, feeds)
        events = json.loads(Path(run.end_profiling()).read_bytes())
    return _by_operator(events)


def _by_operator(events: Sequence[Mapping[str, Any]]) -> Profile:
    """Of onnxruntime's events, those that say how long a node's kernel took."""
    of_node: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            of_node[event["args"]["op_name"], event["name"]].append(event["dur"])
    took, nodes = defaultdict[str, float](float), defaultdict[str, int](int)
    for (operator, _), microseconds in of_node.items():
        took[operator] += median(microseconds) / 1e3
        nodes[operator] += 1
    return Profile(took, nodes)


if __name__ == "__main__":
    main()
