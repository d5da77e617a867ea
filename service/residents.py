"""The versions in memory: loaded behind the requests, leased by them, freed after the last of them.

Knows no ranker and no deployment. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from service import heap
from service.behind import Behind
from service.bundle.errors import BundleError
from service.tasks import Tasks

if TYPE_CHECKING:
    from service.model import Model

MOST_RETRY_S = 300.0
"""The longest delay between two tries to load a version."""

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
        self._make, self._retry_s = load, retry_s
        self.changed = asyncio.Event()
        """set when a load has ended and when a retired version is gone; whoever waits for it clears it"""
        self.ready: dict[str, Resident] = {}
        self.retiring: list[Resident] = []
        self.loading: str | None = None
        self.failed: dict[str, Failure] = {}
        self._tasks = Tasks("a version could not be warmed or freed in good order")
        # Each one thread, which lasts: what one version frees of its heap, the next one takes.
        self._loads, self._frees = Behind("residents"), Behind("retired")

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
        self._tasks.start(self._load(version))

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

        One that is under way is waited for only while it follows one of these: it ends with the process.
        """
        try:
            while self.ready or self.retiring:
                self.changed.clear()
                for version in list(self.ready):
                    self.retire(version)
                await self.changed.wait()
        finally:
            self._loads.close()
            self._frees.close()

    async def _load(self, version: str) -> None:
        try:
            model = await self._loads.do(partial(self._make, version))
            await self._follow(model)
        except Exception as error:  # whatever it is: the reason why this version is not here
            self._fail(version, error)
        else:
            self.ready[version] = Resident(version, model, time.time())
            self.forget([version])
            self._tasks.start(model.warming.go_on())
            _log.info("%s is in memory", version)
        self.loading = None
        self.changed.set()

    async def _follow(self, model: Model) -> None:
        """Let a model hold of items' state what those in memory hold. Where it cannot, it is closed."""
        async with AsyncExitStack() as refused:
            refused.push_async_callback(self._loads.do, model.close)
            for resident in tuple(self.ready.values()):
                if not resident.retired:  # while the model followed another one
                    with self.lease(resident) as other:
                        await self._loads.do(partial(model.warming.follow, other.warming))
            refused.pop_all()

    def _fail(self, version: str, error: Exception) -> None:
        expected, last = isinstance(error, BundleError), self.failed.get(version)
        reason = str(error) if expected else repr(error)
        delay_s = min(2 * last.delay_s, MOST_RETRY_S) if last else self._retry_s
        self.failed[version] = Failure(reason, delay_s, time.monotonic() + delay_s)
        _log.warning("%s could not be loaded: %s", version, reason, exc_info=None if expected else error)

    def _free_if_idle(self, resident: Resident) -> None:
        if resident.retired and not resident.leases:
            self._tasks.start(self._free(resident))

    async def _free(self, resident: Resident) -> None:
        try:
            await resident.model.drain()
            await self._frees.do(partial(_end, resident))
            _log.info("%s is gone", resident.version)
        finally:
            self.retiring.remove(resident)
            self.changed.set()


def _end(resident: Resident) -> None:
    """Close a model and drop the last reference to it, here in a thread: millions of objects may go."""
    resident.model.close()
    del resident.model
    heap.give_back()
