"""onnxruntime sessions of one version, and its state arrays. Synchronous; one thread at a time.

The user's part of the first layers is run once a request, the items' part is kept for the whole catalogue,
and a candidate costs a gather, the sum and the deeper layers. The only module that knows onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from service.bundle.encoder import Encoded
from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest, StateArray, graph_inputs
from service.bundle.rows import Columns
from service.bundle.schema import FeatureSchema, Side
from service.errors import InferenceFailed

Array = NDArray[Any]
Arrays = Mapping[str, tuple[str, tuple[int, ...]]]
"""name -> dtype and shape, an open axis written as 0"""

FILL_ROWS = 256
"""items a run when the state is filled: short enough to let requests in between"""

TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int32": "tensor(int32)"}
"""onnxruntime's names of dtypes"""

ERRORS = (
    ort_errors.EPFail, ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf, ort_errors.NoSuchFile, ort_errors.NotImplemented, ort_errors.RuntimeException,
)  # fmt: skip
"""onnxruntime's errors, which share no class of their own"""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run.

    Attributes:
        provider: ``auto`` takes CUDA where there is a device and it works; ``cuda`` fails where it does not.
        threads: of onnxruntime within a run.
        max_fresh: items a run that the state arrays do not hold (their scratch rows).
    """

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    max_fresh: int = 2048


@dataclass(frozen=True, slots=True)
class Inference:
    """What a run gave one request.

    Attributes:
        scores: ``[N]`` float32 by task.
        user_ms: of `user.onnx`, the whole run's.
        item_ms: of `item.onnx` for fresh items, the whole run's.
        rank_ms: of `rank.onnx`, the whole run's.
    """

    scores: Mapping[str, NDArray[np.float32]]
    user_ms: float
    item_ms: float
    rank_ms: float


class Engine:
    """The three graphs of a bundle, with the state of all its items filled in.

    Args:
        folder: of the bundle.
        manifest: of the bundle.
        items: the item table, encoded ``[items + 1]``.
        options: how to run.

    Raises:
        BundleError: a graph cannot be read or run, its inputs or outputs are not what the manifest states, or
            the provider asked for is not to be had.
    """

    def __init__(self, folder: Path, manifest: Manifest, items: Columns, options: EngineOptions) -> None:
        self._manifest = manifest
        self._options = options
        self._user = open_session(folder / "user.onnx", options)
        self._item = open_session(folder / "item.onnx", options)
        self._rank = open_session(folder / "rank.onnx", options)
        self._check_graphs()
        self._held = len(items)
        self._state = [self._allocate(array) for array in manifest.state]
        with _failing_as(BundleError, "the items' state cannot be computed"):
            self._fill(items)
            self._on_device = self._copy_to_device()

    @property
    def provider(self) -> str:
        """The execution provider in use, e.g. ``CPUExecutionProvider``."""
        return str(self._rank.get_providers()[0])

    def run(self, batch: Sequence[Encoded]) -> list[Inference]:
        """Scores of every request of a batch, in one run of each graph.

        Raises:
            ValueError: more fresh items than there are scratch rows.
            InferenceFailed: onnxruntime could not run a graph.
        """
        with _failing_as(InferenceFailed, "the model broke"):
            return self._run(batch)

    def close(self) -> None:
        """Give the sessions and the state arrays back."""
        del self._user, self._item, self._rank
        self._state.clear()
        self._on_device.clear()

    def _run(self, batch: Sequence[Encoded]) -> list[Inference]:
        manifest, started = self._manifest, perf_counter()
        users = _feeds(manifest.features, Side.USER, _stack([encoded.user for encoded in batch]))
        user_state = self._user.run(manifest.user_state, users)
        user_ran = perf_counter()
        item_row = self._rows(batch)
        item_ran = perf_counter()
        lengths = [len(encoded) for encoded in batch]
        feeds = _feeds(manifest.features, Side.CROSS, _stack([encoded.cross for encoded in batch]))
        for name, array, state in zip(manifest.user_state, user_state, manifest.state, strict=True):
            # One request's user state is broadcast by the graph; only several must be spread over their rows.
            feeds[name] = array if len(batch) == 1 else np.repeat(array, lengths, axis=state.item_axis)
        scores = self._rank_rows({**feeds, "item_row": item_row})
        ended = perf_counter()
        timings = [1e3 * seconds for seconds in (user_ran - started, item_ran - user_ran, ended - item_ran)]
        parts = zip(*(np.split(rows, np.cumsum(lengths)[:-1]) for rows in scores), strict=True)
        return [Inference(dict(zip(manifest.outputs(), part, strict=True)), *timings) for part in parts]

    def _rows(self, batch: Sequence[Encoded]) -> NDArray[np.int32]:
        """Each candidate's row ``[N]`` in the state arrays; fresh items go to the scratch rows."""
        rows = np.concatenate([encoded.item_row for encoded in batch])
        starts = np.cumsum([0, *(len(encoded) for encoded in batch)])
        fresh = [
            (encoded, start)
            for encoded, start in zip(batch, starts, strict=False)
            if encoded.fresh is not None
        ]
        if not fresh:
            return rows
        columns = _stack([encoded.fresh for encoded, _ in fresh if encoded.fresh is not None])
        if len(columns) > self._options.max_fresh:
            raise ValueError(
                f"{len(columns)} items beyond the catalogue; a run takes {self._options.max_fresh}"
            )
        self._compute(columns, self._held)
        for value, array in zip(self._on_device, self._state, strict=False):
            value.update_inplace(array)
        at = np.concatenate([encoded.fresh_at + start for encoded, start in fresh])
        rows[at] = self._held + np.arange(len(columns), dtype=np.int32)
        return rows

    def _fill(self, items: Columns) -> None:
        for start in range(0, len(items), FILL_ROWS):
            self._compute(items.take(np.arange(start, min(start + FILL_ROWS, len(items)))), start)

    def _compute(self, items: Columns, start: int) -> None:
        """Write the state of these items to the rows from `start`."""
        names = [array.name for array in self._manifest.state]
        outputs = self._item.run(names, _feeds(self._manifest.features, Side.ITEM, items))
        for spec, array, output in zip(self._manifest.state, self._state, outputs, strict=True):
            rows = [slice(None)] * array.ndim
            rows[spec.item_axis] = slice(start, start + len(items))
            array[tuple(rows)] = output

    def _allocate(self, array: StateArray) -> Array:
        sizes = list(array.shape)
        sizes[array.item_axis] = self._held + self._options.max_fresh
        return np.zeros(sizes, array.dtype)

    def _rank_rows(self, feeds: dict[str, Array]) -> list[Array]:
        names = [array.name for array in self._manifest.state]
        if not self._on_device:
            feeds |= dict(zip(names, self._state, strict=True))
            outputs: list[Array] = self._rank.run(self._manifest.outputs(), feeds)
            return outputs
        binding = self._rank.io_binding()
        for name, value in zip(names, self._on_device, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._manifest.outputs():
            binding.bind_output(name, "cpu")
        self._rank.run_with_iobinding(binding)
        bound: list[Array] = binding.copy_outputs_to_cpu()
        return bound

    def _copy_to_device(self) -> list[Any]:
        """The state arrays in the device's memory, at fixed addresses; nothing on a CPU."""
        if self.provider != "CUDAExecutionProvider":
            return []
        return [ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for array in self._state]

    def _check_graphs(self) -> None:
        manifest = self._manifest
        if len(manifest.user_state) != len(manifest.state):
            raise BundleError(
                "state and user_state of the manifest differ in length; a projection has one of each"
            )
        user, item, cross = (_stated(manifest.features, side) for side in Side)
        items: Arrays = {array.name: (array.dtype, array.shape) for array in manifest.state}
        shapes = [array.shape for array in manifest.state]
        users: Arrays = {
            name: ("float32", shape) for name, shape in zip(manifest.user_state, shapes, strict=True)
        }
        scores: Arrays = {task: ("float32", (0,)) for task in manifest.outputs()}
        candidates: Arrays = {**cross, "item_row": ("int32", (0,)), **users, **items}
        _check("inputs of user.onnx", self._user.get_inputs(), user)
        _check("outputs of user.onnx", self._user.get_outputs(), users)
        _check("inputs of item.onnx", self._item.get_inputs(), item)
        _check("outputs of item.onnx", self._item.get_outputs(), items)
        _check("inputs of rank.onnx", self._rank.get_inputs(), candidates)
        _check("outputs of rank.onnx", self._rank.get_outputs(), scores)


def open_session(path: Path, options: EngineOptions) -> ort.InferenceSession:
    """A session with explicit threads and no spinning, on the provider asked for.

    Raises:
        BundleError: the graph cannot be read, or ``cuda`` was asked for and is not to be had.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    providers: list[Any] = ["CPUExecutionProvider"]
    if options.provider == "cuda" or (options.provider == "auto" and _has_device()):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}))
    with _failing_as(BundleError, f"{path.name} cannot be read"):
        session = ort.InferenceSession(path, settings, providers=providers)
    if options.provider == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        # onnxruntime falls back in silence; who asked for CUDA must not get a CPU.
        raise BundleError(
            "CUDA was asked for and onnxruntime could not use it; install rankserve[cuda] or use auto"
        )
    return session


def _has_device() -> bool:
    return "CUDAExecutionProvider" in ort.get_available_providers() and Path("/dev/nvidiactl").exists()


def _stack(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return Columns(
        np.concatenate([part.index for part in parts]), np.concatenate([part.value for part in parts])
    )


def _feeds(features: FeatureSchema, side: Side, columns: Columns) -> dict[str, Array]:
    arrays = {f"{side}_index": columns.index, f"{side}_value": columns.value}
    return {name: array for name, array in arrays.items() if array.shape[1]}


def _stated(features: FeatureSchema, side: Side) -> Arrays:
    return {name: (dtype, (0, width)) for name, (dtype, width) in graph_inputs(features, side).items()}


def _check(what: str, found: Sequence[Any], stated: Arrays) -> None:
    """Raise BundleError unless a graph's inputs or outputs are as stated; an open axis fits any length."""
    names = {array.name for array in found}
    if names != stated.keys():
        raise BundleError(f"{what} are {sorted(names)}; the manifest states {sorted(stated)}")
    for array in found:
        dtype, shape = stated[array.name]
        has = [axis if isinstance(axis, int) else 0 for axis in array.shape]
        same = len(has) == len(shape) and all(a == b or not a * b for a, b in zip(has, shape, strict=True))
        if not same or array.type != TYPES[dtype]:
            is_, wants = f"{array.type} {has}", f"{dtype} {list(shape)}"
            raise BundleError(f"{what}: {array.name} is {is_}; the manifest states {wants}")


@contextmanager
def _failing_as(error: type[Exception], what: str) -> Iterator[None]:
    """Raise onnxruntime's errors as one of ours."""
    try:
        yield
    except ERRORS as cause:
        raise error(f"{what}: {cause}") from cause
