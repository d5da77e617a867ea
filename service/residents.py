"""The versions in memory: loaded behind the requests, leased by them, freed after the last of them.

Knows no ranker and no deployment. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from service import heap
from service.bundle.errors import BundleError

if TYPE_CHECKING:
    from service.model import Model

MOST_RETRY_S = 300.0
"""The longest delay between two tries to load a version."""

Job = tuple[str, Future["Model"]]
"""a version to load, and where its model is awaited"""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Resident:
    """A version in memory."""

    version: str
    model: Model
    since: float
    """seconds since the epoch"""
    leases: int = 0
    retired: bool = False
    """waits for its last lease"""


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be loaded."""

    reason: str
    delay_s: float
    """how long not to try it again"""
    due: float
    """when to, on the monotonic clock"""


class Residents:
    """Versions in memory, and why others are not."""

    def __init__(self, load: Callable[[str], Model], retry_s: float) -> None:
        """`load` makes a model of a version, or raises the reason why not; it is called in another thread.

        What fails is due again after `retry_s` seconds, then twice that, and so on.
        """
        self._retry_s = retry_s
        self.changed = asyncio.Event()
        """set when a load has ended and when a retired version is gone; whoever waits for it clears it"""
        self.ready: dict[str, Resident] = {}
        self.retiring: list[Resident] = []
        self.loading: str | None = None
        self.failed: dict[str, Failure] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # One thread, which lasts: what one version frees of its heap, the next one takes. And a daemon, not
        # an executor's: a load cannot be broken off, and must not keep the process from ending.
        Thread(target=_load_all, args=(load, self._jobs), name="residents", daemon=True).start()

    @property
    def due(self) -> frozenset[str]:
        """Versions that failed, and are worth another try by now."""
        now = time.monotonic()
        return frozenset(version for version, failure in self.failed.items() if failure.due <= now)

    def forget(self, versions: Collection[str]) -> None:
        """Forget that these failed."""
        for version in versions:
            self.failed.pop(version, None)

    def load(self, version: str) -> None:
        """Begin to load a version; it ends ready or failed."""
        self.loading = version
        self._start(self._load(version))

    def retire(self, version: str) -> None:
        """Lease a version no more, and free it after its last lease."""
        resident = self.ready.pop(version)
        resident.retired = True
        self.retiring.append(resident)
        self._free_if_idle(resident)

    @contextmanager
    def lease(self, resident: Resident) -> Iterator[Model]:
        """Keep a version in memory until the context ends. Takes no lock: it is the event loop's alone."""
        resident.leases += 1
        try:
            yield resident.model
        finally:
            resident.leases -= 1
            self._free_if_idle(resident)

    async def close(self) -> None:
        """Retire every version and wait until all are gone. No load may be begun any more.

        One that is under way is not waited for: it ends with the process.
        """
        self._jobs.put(None)
        while self.ready or self.retiring:
            self.changed.clear()
            for version in list(self.ready):
                self.retire(version)
            await self.changed.wait()

    async def _load(self, version: str) -> None:
        made: Future[Model] = Future()
        self._jobs.put((version, made))
        try:
            model = await asyncio.wrap_future(made)
        except Exception as error:  # whatever it is: the reason why this version is not here
            self._fail(version, error)
        else:
            self.ready[version] = Resident(version, model, time.time())
            self.forget([version])
            _log.info("%s is in memory", version)
        self.loading = None
        self.changed.set()

    def _fail(self, version: str, error: Exception) -> None:
        expected, last = isinstance(error, BundleError), self.failed.get(version)
        reason = str(error) if expected else repr(error)
        delay_s = min(2 * last.delay_s, MOST_RETRY_S) if last else self._retry_s
        self.failed[version] = Failure(reason, delay_s, time.monotonic() + delay_s)
        _log.warning("%s could not be loaded: %s", version, reason, exc_info=None if expected else error)

    def _free_if_idle(self, resident: Resident) -> None:
        if resident.retired and not resident.leases:
            self._start(self._free(resident))

    async def _free(self, resident: Resident) -> None:
        try:
            await resident.model.drain()
            await asyncio.to_thread(_end, resident)
            _log.info("%s is gone", resident.version)
        finally:
            self.retiring.remove(resident)
            self.changed.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("a version was not freed in good order", exc_info=error)


def _load_all(load: Callable[[str], Model], jobs: SimpleQueue[Job | None]) -> None:
    """The thread that loads: a version at a time, until there is a None."""
    while job := jobs.get():
        version, made = job
        made.set_running_or_notify_cancel()  # from here on nobody can cancel it
        try:
            made.set_result(load(version))
        except BaseException as error:  # SystemExit and its like too: the thread lasts
            # No future that is awaited takes a StopIteration: it would be waited for for ever.
            fits = isinstance(error, Exception) and not isinstance(error, StopIteration)
            made.set_exception(error if fits else RuntimeError(repr(error)))
        del job, made  # this frame must keep no model in memory


def _end(resident: Resident) -> None:
    """Close a model and drop the last reference to it, here in a thread: millions of objects may go."""
    resident.model.close()
    del resident.model
    heap.give_back()
