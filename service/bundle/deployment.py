"""What should serve, and what does: `models/deployment.json` and `models/.workers/`.

`deployment.json` is the only desired state. Whoever changes it (`update`) holds the folder's lock for that
one write and counts the generation up. Every worker tells what it has come to in a file of its own, with a
heartbeat. Nobody calls anybody: all of it is found by looking.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.bundle.store import NAME, locked, replace

STALE_S = 10.0
"""A worker whose last heartbeat is older, in seconds, counts as dead."""
BURIED_S = 3_600.0
"""A status file that is older, in seconds, is nobody's any more, whatever host it came from."""

_DEPLOYMENT = "deployment.json"
_WORKERS = ".workers"
_CLOCK = ".clock"

Name = Annotated[str, Field(pattern=f"^{NAME}$")]
"""Of a version, a ranker or a worker."""


class DeployedRanker(BaseModel):
    """What one ranker should serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Name | None = None
    """None only while its first version is staged."""
    previous: Name | None = None
    staged: Name | None = None
    """To be loaded by every worker, and not yet to serve."""
    staged_until: float | None = None
    """Seconds since the epoch: who staged it has ended by then, however it ended; None is for ever."""
    operation: int = 0
    """The generation that began the operation under way or last done; a later one overtakes it."""
    fusion: FusionFormula | None = None
    """In place of the bundle's own formula."""


class Deployment(BaseModel):
    """The desired state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: Annotated[int, Field(ge=0)] = 0
    rankers: dict[Name, DeployedRanker] = {}

    def having(self, ranker: str, state: DeployedRanker | None) -> Deployment:
        """The same with one ranker as given, or without it."""
        others = {name: other for name, other in self.rankers.items() if name != ranker}
        return self.model_copy(update={"rankers": others if state is None else others | {ranker: state}})

    def unstaged(self, ranker: str) -> Deployment:
        """The same with nothing staged for one ranker; without it, where it never had a version."""
        present = self.rankers[ranker]
        update = present.model_copy(update={"staged": None, "staged_until": None})
        return self.having(ranker, update if present.version else None)

    def as_of(self, now: float) -> Deployment:
        """The same without what was staged until a moment before `now`, in seconds since the epoch."""
        current = self
        for name, ranker in self.rankers.items():
            if ranker.staged_until is not None and ranker.staged_until < now:
                current = current.unstaged(name)
        return current


class WorkerStatus(BaseModel):
    """What one worker has come to, as of its heartbeat."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    worker: Name
    pid: Annotated[int, Field(gt=0)]
    host: str
    started: float
    """Seconds since the epoch."""
    heartbeat: float
    """Seconds since the epoch."""
    generation: int
    """Of the deployment that all the rest answers to."""
    rankers: dict[str, str] = {}
    """Ranker -> the version it serves."""
    ready: tuple[str, ...] = ()
    """Versions in memory, verified and warm."""
    failed: dict[str, str] = {}
    """Versions that could not be loaded, and why; kept until one is named anew, or loads."""
    unfit: dict[str, str] = {}
    """Ranker -> why the version staged for it, though ready, cannot serve it."""


def read(models: Path) -> Deployment:
    """The desired state; an empty one where none was ever written.

    Raises:
        BundleError: deployment.json cannot be read; with the reason.
    """
    try:
        raw = (models / _DEPLOYMENT).read_bytes()
    except FileNotFoundError:
        return Deployment()
    except OSError as error:
        raise BundleError(f"{_DEPLOYMENT} cannot be read: {error.strerror}") from None
    try:
        return Deployment.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"]) or "the whole"
        raise BundleError(f"{_DEPLOYMENT}: {path}: {first['msg']}") from None


def stamp(models: Path) -> tuple[int, int, int] | None:
    """Something that differs whenever deployment.json was replaced; one system call.

    Raises:
        BundleError: deployment.json cannot be looked at; with the reason.
    """
    try:
        stat = os.stat(models / _DEPLOYMENT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{_DEPLOYMENT} cannot be read: {error.strerror}") from None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def update(models: Path, change: Callable[[Deployment], Deployment]) -> Deployment:
    """Change the desired state, as one step that no other writer can cut into. Blocks for a moment.

    Args:
        models: folder of all versions.
        change: from the present state to the next. The generation it sees is that of the next state. Where
            it raises, or gives back what it was given, nothing is written.

    Returns:
        The desired state after it.

    Raises:
        BundleError: the present deployment.json cannot be read.
    """
    with locked(models):
        present = read(models)
        counted = present.model_copy(update={"generation": present.generation + 1})
        changed = change(counted)
        if changed == counted:
            return present
        replace(models / _DEPLOYMENT, changed.model_dump_json(indent=1, exclude_none=True).encode())
        return changed


def report(models: Path, status: WorkerStatus) -> None:
    """Write a worker's status file."""
    folder = models / _WORKERS
    folder.mkdir(exist_ok=True)
    # Not durable: no status outlives its process, let alone the machine.
    replace(folder / f"{status.worker}.json", status.model_dump_json().encode(), durable=False)


def withdraw(models: Path, worker: str) -> None:
    """Remove a worker's status file, as far as that can be done: where it stays, its heartbeat ends."""
    with suppress(OSError):
        (models / _WORKERS / f"{worker}.json").unlink()


def workers(models: Path) -> list[WorkerStatus]:
    """Every worker with a status file, dead or alive, by name; a file that cannot be read is passed over."""
    return [status for status, _ in _reports(models)]


def live(models: Path) -> list[WorkerStatus]:
    """The workers that are alive: a recent heartbeat and, on this host, a process.

    A heartbeat is as old as its file, by the clock of the file system: those of the hosts may differ.
    """
    now, here = _now(models), this_host()
    return [
        status
        for status, written in _reports(models)
        if now - written < STALE_S and (status.host != here or _runs(status.pid))
    ]


def bury(models: Path) -> None:
    """Remove the status files of this host's dead workers, and whatever nobody has written to for long."""
    for status in workers(models):
        if status.host == this_host() and not _runs(status.pid):
            withdraw(models, status.worker)
    now = _now(models)
    for path in (models / _WORKERS).glob("*"):
        with suppress(OSError):  # another worker was faster
            if now - path.stat().st_mtime > BURIED_S:
                path.unlink()


def this_host() -> str:
    """This machine's name, as far as a worker's name can hold it."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:60] or "host"


def _reports(models: Path) -> Iterator[tuple[WorkerStatus, float]]:
    """Every status that can be read, by name, with the time at which its file was written."""
    for path in sorted((models / _WORKERS).glob("*.json")):
        with suppress(OSError, ValidationError), path.open("rb") as file:
            yield WorkerStatus.model_validate_json(file.read()), os.fstat(file.fileno()).st_mtime


def _now(models: Path) -> float:
    """The time by the clock that dates the status files, as a file touched just now has it."""
    clock = models / _WORKERS / _CLOCK
    try:
        clock.touch()
        return clock.stat().st_mtime
    except OSError:  # it can only be read, or nobody has reported yet
        return time.time()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
