"""float32 or int8: what a version is ranked in on this host, measured once for all workers.

Whether `rank.int8.onnx` is the faster depends on the processor. The first worker of a host that has measured
a version writes what it found to ``models/.precision/<host>/<version>.json``, and all others go by that: no
score depends on the worker that computes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

from pydantic import BaseModel, ConfigDict, ValidationError

from service.bundle.deployment import this_host
from service.bundle.graphs import RANK_INT8
from service.bundle.manifest import Manifest, Precision
from service.bundle.store import locked, replace

PRECISION_ROWS = 500
"""candidates of the request that is measured"""
ROUNDS = 20
"""a run of each in turn: what else the machine does then slows both alike"""
MARGIN = 1.05
"""by which int8 must be the faster: it is the less exact of the two"""

_FOLDER = ".precision"

_log = logging.getLogger(__name__)


class Chosen(BaseModel):
    """What a version is ranked in, and what a run of 500 candidates took where that was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    precision: Precision
    """In use."""
    float32_ms: float | None = None
    """Null where nothing was measured: there is no other graph, or a setting says which."""
    int8_ms: float | None = None


class _Kept(Chosen):
    """A choice as it is kept; it is of one graph, and another one of the same name is measured anew."""

    graph: str
    """SHA-256 of rank.int8.onnx."""

    def chosen(self) -> Chosen:
        """The choice itself."""
        return Chosen(**self.model_dump(exclude={"graph"}))


def settle(
    folder: Path,
    manifest: Manifest,
    runs: Mapping[Precision, Callable[[], object]],
    clock: Callable[[], float] = perf_counter,
) -> Chosen:
    """What the version of a bundle's folder is ranked in on this host: what is measured now. Blocks.

    Or what another worker has found meanwhile. Float32 where what was measured cannot be kept: another
    worker might measure otherwise.

    Args:
        folder: of the bundle.
        manifest: of the bundle.
        runs: one run of `PRECISION_ROWS` candidates in each precision.
        clock: in seconds.
    """
    found = _Kept(graph=manifest.files[RANK_INT8], **dict(choose(measure(runs, clock))))
    try:
        return _keep(_path(folder, manifest), folder.parent, found).chosen()
    except OSError as error:  # as of a full disk
        _log.warning("%s is ranked in float32: what is faster cannot be kept: %s", manifest.version, error)
        return Chosen(precision="float32")


def kept(folder: Path, manifest: Manifest) -> Chosen | None:
    """What a worker of this host has settled on before; None where nobody has, or it cannot be read."""
    try:
        found = _read(_path(folder, manifest), manifest.files[RANK_INT8])
    except OSError:
        return None
    return found and found.chosen()


def measure(
    runs: Mapping[Precision, Callable[[], object]], clock: Callable[[], float] = perf_counter
) -> dict[Precision, float]:
    """The median milliseconds of a run of each, by `ROUNDS` in turns, after one that warms up."""
    taken: dict[Precision, list[float]] = {precision: [] for precision in runs}
    for turn in range(1 + ROUNDS):
        for precision, run in runs.items():
            started = clock()
            run()
            if turn:
                taken[precision].append(1e3 * (clock() - started))
    return {precision: median(times) for precision, times in taken.items()}


def choose(took_ms: Mapping[Precision, float]) -> Chosen:
    """int8 where it is the faster by `MARGIN`."""
    faster = MARGIN * took_ms["int8"] <= took_ms["float32"]
    return Chosen(
        precision="int8" if faster else "float32",
        float32_ms=round(took_ms["float32"], 3),
        int8_ms=round(took_ms["int8"], 3),
    )


def _path(folder: Path, manifest: Manifest) -> Path:
    return folder.parent / _FOLDER / this_host() / f"{manifest.version}.json"


def _keep(path: Path, models: Path, found: _Kept) -> _Kept:
    """Write it, unless another was the first: then that is right."""
    with locked(models):
        before = _read(path, found.graph)
        if before is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, found.model_dump_json().encode(), durable=False)
        return before or found


def _read(path: Path, graph: str) -> _Kept | None:
    """What was found before for this very graph."""
    try:
        found = _Kept.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found if found.graph == graph else None
