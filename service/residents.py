"""The versions in memory: loaded behind the requests, leased by them, freed after the last of them.

Knows no ranker and no deployment. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from service.bundle.errors import BundleError, FusionError
from service.bundle.fusion import FusionFormula

if TYPE_CHECKING:
    from service.model import Model

P = ParamSpec("P")
T = TypeVar("T")

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


class Residents:
    """Versions in memory, and why others are not."""

    def __init__(self, load: Callable[[str], Model], niceness: int) -> None:
        """`load` makes a model of a version, or raises the reason why not; it is called in a nice thread."""
        self._load_model = load
        self.changed = asyncio.Event()
        """set when a load has ended and when a retired version is gone; whoever waits for it clears it"""
        self.ready: dict[str, Resident] = {}
        self.retiring: list[Resident] = []
        self.loading: str | None = None
        self.failed: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # One thread, which lasts: what one version frees of its heap, the next one takes.
        self._thread = ThreadPoolExecutor(1, "residents", initializer=_be_nice, initargs=(niceness,))

    def load(self, version: str, formulas: Sequence[FusionFormula] = ()) -> None:
        """Begin to load a version, which must also be able to compute `formulas`; it ends ready or failed."""
        self.loading = version
        self._start(self._load(version, formulas))

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
        """Retire every version and wait until all are gone. No load may be begun any more."""
        try:
            while self.ready or self.retiring or self.loading:
                self.changed.clear()
                for version in list(self.ready):
                    self.retire(version)
                await self.changed.wait()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _load(self, version: str, formulas: Sequence[FusionFormula]) -> None:
        try:
            model = await self._in_thread(self._make, version, formulas)
        except Exception as error:  # whatever it is: the reason why this version is not here
            expected = isinstance(error, BundleError | FusionError)
            self.failed[version] = str(error) if expected else repr(error)
            _log.warning("%s could not be loaded: %s", version, self.failed[version], exc_info=not expected)
        else:
            self.ready[version] = Resident(version, model, time.time())
            _log.info("%s is in memory", version)
        self.loading = None
        self.changed.set()

    def _make(self, version: str, formulas: Sequence[FusionFormula]) -> Model:
        model = self._load_model(version)
        try:
            for formula in formulas:
                model.check(formula)
        except FusionError:
            model.close()
            raise
        return model

    def _free_if_idle(self, resident: Resident) -> None:
        if resident.retired and not resident.leases:
            self._start(self._free(resident))

    async def _free(self, resident: Resident) -> None:
        try:
            await resident.model.drain()
            await self._in_thread(_end, resident)
            _log.info("%s is gone", resident.version)
        finally:
            self.retiring.remove(resident)
            self.changed.set()

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *args, **kwargs))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("a version was not freed in good order", exc_info=error)


def _end(resident: Resident) -> None:
    """Close a model and drop the last reference to it, here in the thread: millions of objects may go."""
    resident.model.close()
    del resident.model
    _give_memory_back()


def _give_memory_back() -> None:
    """Return what the heap has free to the system; glibc would keep it."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _be_nice(niceness: int) -> None:
    """Let requests go before this thread; on Linux a priority is a thread's own, and only ever given up."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))
