"""What every peer runs: features from memory, a graph of the bundle, the bundle's formula, the answer.

As a careful user would write it: the encoded features of all users and items lie in arrays, ids become rows
by a dict, and all else is vectorised over the candidates. `flat` runs the ordinary graph, every feature per
row. `split` runs the project's own `user` and `rank` graphs with the items' state kept in memory: what the
graphs give without the service.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
from numpy.typing import NDArray

FEATURES_FILE = "features.npz"
MOST_REQUESTS = 8
"""in a batch, where a framework gathers any"""
WAIT_S = 0.002
"""that a framework may wait for more requests of a batch"""
FILL_ROWS = 256

Request = Mapping[str, Any]
Arrays = dict[str, NDArray[Any]]


class Scorer:
    """Ranks requests.

    Args:
        bundle: folder of the bundle.
        features: `features.npz`: ``user_index`` and ``item_index``, the rows of ``u0``, ``u1`` … and ``i0`` …
        graph: ``flat`` or ``split``.
    """

    def __init__(self, bundle: Path, features: Path, graph: str = "flat") -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        self._tasks = [task["name"] for task in manifest["tasks"]]
        (group,) = manifest["fusion"]["groups"]
        weights = {factor["task"]: factor["weight"] for factor in group["factors"]}
        self._weights = np.array([weights[task] for task in self._tasks])
        with np.load(features) as arrays:
            self._users, self._items = arrays["user_index"], arrays["item_index"]
        self._user_rows = {f"u{row}": row for row in range(len(self._users))}
        self._item_rows = {f"i{row}": row for row in range(len(self._items))}
        if graph == "flat":
            self._graph = _session(bundle / "flat.onnx")
            self._run = self._flat
        else:
            self._user, self._graph = _session(bundle / "user.onnx"), _session(bundle / "rank.onnx")
            self._state = self._filled(bundle, manifest["state"])
            axes = (array["item_axis"] for array in manifest["state"])
            self._user_axes = dict(zip(manifest["user_state"], axes, strict=True))
            self._run = self._split

    @staticmethod
    def from_environment() -> Scorer:
        """As `BENCH_BUNDLE`, `BENCH_FEATURES` and `BENCH_GRAPH` say.

        Frameworks start their workers themselves, and hand an environment on.
        """
        at = os.environ
        return Scorer(Path(at["BENCH_BUNDLE"]), Path(at["BENCH_FEATURES"]), at["BENCH_GRAPH"])

    def rank(self, requests: Sequence[Request]) -> list[bytes]:
        """The answers to requests, in one run of the graph, as JSON."""
        users = np.array([self._user_rows[request["user_id"]] for request in requests])
        items = [[self._item_rows[item] for item in request["candidates"]] for request in requests]
        lengths = [len(rows) for rows in items]
        tasks = np.stack(self._run(users, np.concatenate(items), np.array(lengths)), axis=1)
        logs = np.log(np.maximum(tasks.astype(np.float64), 1e-9)) @ self._weights
        ends = np.cumsum(lengths)[:-1]
        parts = zip(requests, np.split(tasks, ends), np.split(logs, ends), strict=True)
        return [self._answer(request, scores, log) for request, scores, log in parts]

    def _answer(self, request: Request, tasks: NDArray[Any], logs: NDArray[Any]) -> bytes:
        order = np.argsort(-logs, kind="stable")
        ids, names = request["candidates"], self._tasks
        ranked = zip(order.tolist(), np.exp(logs[order]).tolist(), tasks[order].tolist(), strict=True)
        return orjson.dumps(
            {
                "items": [
                    {"id": ids[at], "score": score, "tasks": dict(zip(names, row, strict=True))}
                    for at, score, row in ranked
                ]
            }
        )

    def _flat(self, users: NDArray[Any], items: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
        arrays = {"user_index": self._users[np.repeat(users, lengths)], "item_index": self._items[items]}
        outputs: list[NDArray[Any]] = self._graph.run(self._tasks, arrays)
        return outputs

    def _split(self, users: NDArray[Any], items: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
        names = list(self._user_axes)
        arrays = dict(zip(names, self._user.run(names, {"user_index": self._users[users]}), strict=True))
        if len(users) > 1:  # one user is broadcast by the graph
            axes = self._user_axes
            arrays = {name: np.repeat(array, lengths, axis=axes[name]) for name, array in arrays.items()}
        outputs: list[NDArray[Any]] = self._graph.run(
            self._tasks, {**arrays, **self._state, "item_row": items.astype(np.int32)}
        )
        return outputs

    def _filled(self, bundle: Path, state: Sequence[Mapping[str, Any]]) -> Arrays:
        """The state arrays of all items."""
        session, names = _session(bundle / "item.onnx"), [array["name"] for array in state]
        parts = [
            session.run(names, {"item_index": self._items[start : start + FILL_ROWS]})
            for start in range(0, len(self._items), FILL_ROWS)
        ]
        axes = [array["item_axis"] for array in state]
        columns = zip(*parts, strict=True)
        return {
            name: np.concatenate(column, axis=axis)
            for name, column, axis in zip(names, columns, axes, strict=True)
        }


def workers() -> int:
    """How many processes a framework shall run, as `BENCH_WORKERS` says."""
    return int(os.environ["BENCH_WORKERS"])


def batching() -> bool:
    """Shall the framework gather requests? As `BENCH_BATCHING` says, 0 or 1."""
    return os.environ["BENCH_BATCHING"] == "1"


def _session(path: Path) -> ort.InferenceSession:
    """With one thread: a process a core, as every framework's documentation advises for a CPU."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
