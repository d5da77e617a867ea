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

from service.bundle.errors import BundleError
from service.bundle.graphs import check_arrays, stated_arrays
from service.bundle.manifest import Manifest, StateArray
from service.bundle.rows import Columns, Encoded
from service.bundle.schema import FeatureSchema, Side
from service.errors import InferenceFailed

Array = NDArray[Any]

FILL_ROWS = 256
"""items a run when the state is filled: short enough to let requests in between"""

ERRORS = tuple(
    kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
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
        with _refused("the items' state cannot be computed"):
            self._fill(items)
            self._on_device = [] if self.on_cpu else self._copied_to("cuda")

    @property
    def provider(self) -> str:
        """The execution provider in use, e.g. ``CPUExecutionProvider``."""
        return str(self._rank.get_providers()[0])

    @property
    def on_cpu(self) -> bool:
        """Does it run on the processor, and on no device?"""
        return self.provider == "CPUExecutionProvider"

    def run(self, batch: Sequence[Encoded]) -> list[Inference]:
        """Scores of every request of a batch, in one run of each graph.

        Raises:
            ValueError: more fresh items than there are scratch rows.
            InferenceFailed: onnxruntime could not run a graph.
        """
        try:
            return self._run(batch)
        except ERRORS as error:
            raise InferenceFailed from error

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
            array[_items(spec, start, len(items))] = output

    def _allocate(self, array: StateArray) -> Array:
        sizes = list(array.shape)
        sizes[array.item_axis] = self._held + self._options.max_fresh
        return np.zeros(sizes, array.dtype)

    def _rank_rows(self, feeds: dict[str, Array]) -> list[Array]:
        """Scores ``[N]`` of every task."""
        if self._on_device:
            return self._rank_on_device(feeds)
        states = zip(self._manifest.state, self._state, strict=True)
        feeds |= {spec.name: array for spec, array in states}
        outputs: list[Array] = self._rank.run(self._manifest.outputs(), feeds)
        return outputs

    def _rank_on_device(self, feeds: dict[str, Array]) -> list[Array]:
        """Scores by the state on the device; fresh items, which it does not hold, are ranked with their own.

        So a fresh item costs the way of its own state to the device, and not that of the whole catalogue's.
        """
        fresh = feeds["item_row"] >= self._held
        binding = self._rank.io_binding()
        for spec, value in zip(self._manifest.state, self._on_device, strict=True):
            binding.bind_ortvalue_input(spec.name, value)
        for name, array in (feeds | {"item_row": feeds["item_row"] * ~fresh}).items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._manifest.outputs():
            binding.bind_output(name, "cpu")
        self._rank.run_with_iobinding(binding)
        scores: list[Array] = [np.array(output) for output in binding.copy_outputs_to_cpu()]
        if fresh.any():
            again = self._rank.run(self._manifest.outputs(), self._fresh_feeds(feeds, fresh))
            for score, own in zip(scores, again, strict=True):
                score[fresh] = own
        return scores

    def _fresh_feeds(self, feeds: dict[str, Array], fresh: NDArray[np.bool_]) -> dict[str, Array]:
        """The feeds of the fresh items alone, their scratch rows the state."""
        specs = self._manifest.state
        axes = {name: spec.item_axis for name, spec in zip(self._manifest.user_state, specs, strict=True)}
        few = {
            # The user state of one request is broadcast, and has no row for each.
            name: array if array.shape[axes.get(name, 0)] == 1 else array.compress(fresh, axes.get(name, 0))
            for name, array in feeds.items()
        }
        count = int(np.count_nonzero(fresh))
        few["item_row"] = feeds["item_row"][fresh] - np.int32(self._held)
        states = zip(specs, self._state, strict=True)
        return few | {spec.name: array[_items(spec, self._held, count)] for spec, array in states}

    def _copied_to(self, device: str) -> list[Any]:
        """The catalogue's state in a device's memory, at fixed addresses."""
        catalogue = (
            array[_items(spec, 0, self._held)]
            for spec, array in zip(self._manifest.state, self._state, strict=True)
        )
        return [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(part), device, 0) for part in catalogue]

    def _check_graphs(self) -> None:
        sessions = {"user.onnx": self._user, "item.onnx": self._item, "rank.onnx": self._rank}
        for file, (inputs, outputs) in stated_arrays(self._manifest).items():
            check_arrays(f"inputs of {file}", sessions[file].get_inputs(), inputs)
            check_arrays(f"outputs of {file}", sessions[file].get_outputs(), outputs)


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
    providers: list[Any] = ["CPUExecutionProvider"]
    if options.provider == "cuda" or (options.provider == "auto" and _has_device()):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        # TF32, its default, keeps ten bits of a factor: golden scores would not be reproduced.
        cuda = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    with _refused(f"{path.name} cannot be read"):
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


def _items(spec: StateArray, start: int, count: int) -> tuple[slice, ...]:
    """Where so many items from `start` stand in a state array."""
    return (*[slice(None)] * spec.item_axis, slice(start, start + count))


@contextmanager
def _refused(why: str) -> Iterator[None]:
    """Raise BundleError, with the reason, for an error of onnxruntime's."""
    try:
        yield
    except ERRORS as error:
        raise BundleError(f"{why}: {error}") from error
