"""onnxruntime sessions of one version, and the state of its items. Synchronous; one thread at a time.

The user's part of the first layers is run once a request, the items' part is kept in the state arrays, and a
candidate costs a gather, the sum and the deeper layers. The only module that knows onnxruntime.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from service.bundle.errors import BundleError
from service.bundle.graphs import check_arrays, item_graph, rank_graph, stated_arrays
from service.bundle.manifest import Manifest, Precision
from service.bundle.rows import Columns, Encoded
from service.bundle.schema import FeatureSchema, Side
from service.chunks import chunks, parts, spread
from service.cores import ALONE, Cores, Threads
from service.device import Device, padded
from service.errors import InferenceFailed
from service.ledger import Ledger
from service.state import State, StateFigures
from service.wanted import Wanted

Array = NDArray[Any]

ERRORS = tuple(
    kind for kind in vars(ort_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""onnxruntime's errors, which share no class of their own"""


CPU = "CPUExecutionProvider"

LENT_ROWS = 100
"""candidates for each thread of a run: with fewer, the way to another thread takes what it saves"""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run.

    Attributes:
        provider: ``auto`` takes CUDA where there is a device and it works; ``cuda`` fails where it does not.
        threads: of onnxruntime within a run.
        max_rows: candidates whose state is looked up at once; of more, some at a time.
        chunk_rows: candidates in a run of `rank.onnx` on a CPU, whose caches hold what is computed of so
            many: 500 in two parts are 1 to 5 % faster than at once.
    """

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    max_rows: int = 2048
    chunk_rows: int = 256


@dataclass(frozen=True, slots=True)
class Inference:
    """What a run gave one request.

    Attributes:
        scores: ``[N]`` float32 by task.
        user_ms: of `user.onnx`, the whole run's.
        item_ms: of finding the items' state, and `item.onnx` for what was not held, the whole run's.
        rank_ms: of `rank.onnx`, the whole run's.
    """

    scores: Mapping[str, NDArray[np.float32]]
    user_ms: float
    item_ms: float
    rank_ms: float


class Engine:
    """The graphs of a bundle, with the state of its items.

    Args:
        folder: of the bundle.
        manifest: of the bundle.
        items: the item table, encoded ``[items + 1]``.
        options: how to run.
        ledger: of the memory of items' state; without one there is no limit.
        precision: to rank in; int8 on a CPU, where the bundle has it.

    Raises:
        BundleError: a graph cannot be read or run, its inputs or outputs are not what the manifest states,
            the provider asked for is not to be had, or there is no memory for the state.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        items: Columns,
        options: EngineOptions,
        ledger: Ledger | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._manifest, self._options, self._tasks = manifest, options, manifest.outputs()
        self.precision = precision
        self._states = manifest.state_in(precision)
        if apart := [spec.name for spec in self._states if spec.item_axis != 0]:
            raise BundleError(f"the state arrays {apart} have no item a row; export them with item_axis 0")
        self._user = self.opened(folder / "user.onnx")
        self._item = self.opened(folder / item_graph(manifest, precision))
        self._rank = self.opened(folder / rank_graph(folder, precision, on_cpu=self.on_cpu))
        self._chunk_rows = options.chunk_rows if self.on_cpu else sys.maxsize
        self._shared_rows = sys.maxsize
        with _refused("the items' state cannot be computed"), ExitStack() as opened:
            room = ledger or Ledger(sys.maxsize)
            self._state = State(manifest, items, self._item_state, room, options.max_rows, precision)
            opened.callback(self._state.close)
            self._device = None if self.on_cpu else Device(self._rank, manifest.outputs(), self._state)
            opened.pop_all()

    @property
    def provider(self) -> str:
        """The execution provider in use, e.g. ``CPUExecutionProvider``."""
        return str(self._user.get_providers()[0])

    @property
    def on_cpu(self) -> bool:
        """Does it run on the processor, and on no device?"""
        return self.provider == CPU

    @property
    def state(self) -> StateFigures:
        """How the items' state is held by now."""
        return self._state.figures()

    @property
    def table(self) -> State:
        """The items' state itself; like the engine it belongs to one thread at a time."""
        return self._state

    def count_anew(self) -> None:
        """Forget how often items' state was there so far."""
        self._state.count_anew()

    def grow(self) -> None:
        """Hold more of the items' state, where more is needed and there is room by now. Any thread may."""
        self._state.grow()

    def opened(self, graph: Path) -> ort.InferenceSession:
        """A graph of the bundle. Raises BundleError unless it takes and gives what the manifest states."""
        inputs, outputs = stated_arrays(self._manifest)[graph.name]
        session = open_session(graph, self._options)
        check_arrays(f"inputs of {graph.name}", session.get_inputs(), inputs)
        check_arrays(f"outputs of {graph.name}", session.get_outputs(), outputs)
        return session

    def rank_by(self, rank: ort.InferenceSession) -> ort.InferenceSession:
        """Rank by this graph from now on, on a CPU; it reads the same state. Returns the one before it."""
        before, self._rank = self._rank, rank
        return before

    def share(self, rows: int) -> None:
        """From now on requests of at most so many candidates share runs of `rank.onnx` within a batch."""
        self._shared_rows = rows

    def run(self, batch: Sequence[Encoded], cores: Cores | None = None) -> list[Inference]:
        """Scores of every request of a batch, in one run of `user.onnx` and as few of the others as is fast.

        On a CPU, the rows of a large batch are spread over `cores` that other workers lend.

        Raises:
            InferenceFailed: onnxruntime could not run a graph, or an item is beyond the catalogue.
        """
        try:
            if cores is None or self._device is not None:
                return self._run(batch)
            with cores.taken(sum(map(len, batch)) // LENT_ROWS) as threads:
                return self._run(batch, threads)
        except ERRORS as error:
            raise InferenceFailed from error
        except IndexError as error:  # of a row that the catalogue does not have
            raise InferenceFailed from error

    def close(self) -> None:
        """Give the sessions and the state arrays back."""
        del self._user, self._item, self._rank
        self._device = None
        self._state.close()

    def _run(self, batch: Sequence[Encoded], threads: Threads = ALONE) -> list[Inference]:
        names, started = self._manifest.user_state, perf_counter()
        columns = Columns.joined([encoded.user for encoded in batch])
        users = dict(zip(names, self._call(self._user, names, Side.USER, columns), strict=True))
        user_s, item_s = perf_counter() - started, 0.0
        items, cross = Wanted.of(batch), Columns.joined([encoded.cross for encoded in batch])
        ends = np.cumsum([len(encoded) for encoded in batch])
        scored: list[list[Array]] = []
        for part in parts(slice(0, len(cross)), self._state.max_rows):
            began = perf_counter()
            item_row = self._state.rows(items.part(part))
            item_s += perf_counter() - began
            feeds = []
            for chunk in chunks(part, ends, self._shared_rows, self._chunk_rows, threads.count):
                feeds.append(_feeds(self._manifest.features, Side.CROSS, cross.part(chunk)))
                feeds[-1] |= spread(users, ends, chunk)
                feeds[-1]["item_row"] = item_row[chunk.start - part.start : chunk.stop - part.start]
            scored += threads.map(self._rank_rows, feeds)
        rank_s = perf_counter() - started - user_s - item_s
        timings = [1e3 * seconds for seconds in (user_s, item_s, rank_s)]
        scores = dict(zip(self._tasks, map(_joined, zip(*scored, strict=True)), strict=True))
        if len(batch) == 1:
            return [Inference(scores, *timings)]
        return [  # by slices: np.split would take a sixth of a small run's time
            Inference({task: rows[start:end] for task, rows in scores.items()}, *timings)
            for start, end in pairwise([0, *ends.tolist()])
        ]

    def _item_state(self, items: Columns) -> list[Array]:
        return self._call(self._item, [spec.name for spec in self._states], Side.ITEM, items)

    def _call(
        self, session: ort.InferenceSession, names: Sequence[str], side: Side, columns: Columns
    ) -> list[Array]:
        """Outputs ``[n, …]`` of a graph for one side's rows ``[n]``."""
        feeds = _feeds(self._manifest.features, side, columns)
        outputs: list[Array] = session.run(names, feeds if self.on_cpu else padded(feeds))
        return outputs if self.on_cpu else [output[: len(columns)] for output in outputs]

    def _rank_rows(self, feeds: dict[str, Array]) -> list[Array]:
        """Scores ``[N]`` of every task."""
        if self._device is not None:
            return self._device.rank(feeds)
        scores: list[Array] = self._rank.run(self._tasks, feeds | self._state.arrays)
        return scores


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
    providers: list[Any] = [CPU]
    if _tries_device(options):
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


def on_cpu(folder: Path, options: EngineOptions) -> bool:
    """Would an engine of the bundle run on the processor? Raises BundleError as the engine does."""
    return not _tries_device(options) or open_session(folder / "user.onnx", options).get_providers() == [CPU]


def _tries_device(options: EngineOptions) -> bool:
    there = "CUDAExecutionProvider" in ort.get_available_providers() and Path("/dev/nvidiactl").exists()
    return options.provider == "cuda" or (options.provider == "auto" and there)


def _joined(scores: Sequence[Array]) -> Array:
    return scores[0] if len(scores) == 1 else np.concatenate(scores)


def _feeds(features: FeatureSchema, side: Side, columns: Columns) -> dict[str, Array]:
    arrays = {f"{side}_index": columns.index, f"{side}_value": columns.value}
    return {name: array for name, array in arrays.items() if array.shape[1]}


@contextmanager
def _refused(why: str) -> Iterator[None]:
    """Raise BundleError, with the reason, for an error of onnxruntime's."""
    try:
        yield
    except ERRORS as error:
        raise BundleError(f"{why}: {error}") from error
