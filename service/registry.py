"""Which versions are in memory, and which of them each ranker serves with.

A worker follows `deployment.json`: a loop looks at it, and `plan` says what to do next. A request leases the
model it starts with and keeps it to its end; a version that is retired dies with its last lease. How a
version is loaded is a function this is given. Knows no HTTP, and no onnxruntime.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, Deployment, WorkerStatus
from service.bundle.errors import BundleError, FusionError
from service.bundle.fusion import FusionFormula
from service.errors import NotReady, UnknownRanker
from service.plan import Action, Drop, Load, Local, Move, Retire, plan
from service.residents import Resident, Residents

if TYPE_CHECKING:
    from service.model import Model

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What a ranker serves with in this worker, and what it should."""

    version: str | None
    """None where it serves with nothing yet"""
    since: float | None
    """seconds since the epoch"""
    deployed: DeployedRanker | None
    """None where it was taken out of the deployment a moment ago"""
    problem: str | None
    """why this worker does not do what is deployed"""


class Registry:
    """The versions and rankers of one worker; belongs to one event loop."""

    def __init__(
        self,
        models: Path,
        load: Callable[[str], Model],
        *,
        worker: str | None = None,
        poll_s: float = 0.1,
        heartbeat_s: float = 1.0,
        retry_s: float = 1.0,
    ) -> None:
        """`load` makes a model of a version, or raises the reason why not; it is called in another thread.

        The deployment is looked at every `poll_s` seconds. `worker` names this worker's status file. What is
        deployed and could not be loaded is tried again after `retry_s` seconds, then twice that, and so on.
        """
        self.worker = worker or f"{deployment.this_host()}-{os.getpid()}"
        self._models, self._poll_s, self._heartbeat_s = models, poll_s, heartbeat_s
        self._started = time.time()
        self._residents = Residents(load, retry_s)
        self._serving: dict[str, tuple[Resident, float]] = {}
        self._fusions: dict[str, FusionFormula | FusionError] = {}
        self._unfit: dict[str, str] = {}
        self._written = Deployment()
        self._desired = Deployment()
        self._stamp: tuple[int, int, int] | None = None
        self._complaint: str | None = None
        self._reported: tuple[WorkerStatus, float] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Begin to follow the deployment; `ready` tells when every ranker can serve."""
        await asyncio.to_thread(deployment.bury, self._models)
        self._follower = asyncio.create_task(self._follow(), name="registry")

    async def close(self, grace_s: float = 30.0) -> None:
        """Withdraw this worker, then free every model once its leases are back, waiting at most `grace_s`."""
        self._closing = True
        self._residents.changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                if self._follower is not None:
                    await self._follower
                self._serving.clear()
                await asyncio.to_thread(deployment.withdraw, self._models, self.worker)
                await self._residents.close()

    @contextmanager
    def lease(self, ranker: str) -> Iterator[Model]:
        """The model a ranker serves with, kept in memory until the context ends. Takes no lock.

        Raises:
            UnknownRanker: none of that name is deployed.
            NotReady: it is, but its model is not in memory yet, or not any more.
        """
        try:
            resident, _ = self._serving[ranker]
        except KeyError:
            raise self._refusal(ranker) from None
        with self._residents.lease(resident) as model:
            yield model

    def fusion(self, ranker: str) -> FusionFormula | None:
        """The formula deployed in place of the model's own; None where there is none, or it does not fit."""
        formula = self._fusions.get(ranker)
        return formula if isinstance(formula, FusionFormula) else None

    @property
    def ready(self) -> bool:
        """Can every deployed ranker serve?"""
        deployed = {name for name, ranker in self._desired.rankers.items() if ranker.version is not None}
        return bool(deployed) and deployed <= self._serving.keys()

    @property
    def waiting(self) -> bool:
        """Is there a ranker that serves with nothing, and a version that was not tried for it yet?"""
        unserved = (ranker for name, ranker in self._desired.rankers.items() if name not in self._serving)
        failed = self._residents.failed.keys()
        return any({ranker.version, ranker.previous} - {None} - failed for ranker in unserved)

    @property
    def loading(self) -> bool:
        """Is a version being loaded? Nothing can break that off but the end of the process."""
        return self._residents.loading is not None

    @property
    def complaint(self) -> str | None:
        """Why deployment.json cannot be followed; what it last said still holds."""
        return self._complaint

    def rankers(self) -> dict[str, Served]:
        """Every ranker there is here or should be."""
        return {
            name: self._served(name) for name in sorted(self._desired.rankers.keys() | self._serving.keys())
        }

    def residents(self) -> tuple[Resident, ...]:
        """Every version that a request can hold: those that wait for their last lease included."""
        leased = (resident for resident in self._residents.retiring if resident.leases)
        return (*self._residents.ready.values(), *leased)

    @property
    def failed(self) -> dict[str, str]:
        """Versions that could not be loaded, and why."""
        return {version: failure.reason for version, failure in self._residents.failed.items()}

    def status(self) -> WorkerStatus:
        """What this worker tells the others, as of now."""
        return WorkerStatus(
            worker=self.worker,
            pid=os.getpid(),
            host=deployment.this_host(),
            started=self._started,
            heartbeat=time.time(),
            generation=self._desired.generation,
            rankers={name: resident.version for name, (resident, _) in self._serving.items()},
            ready=tuple(sorted(self._residents.ready)),
            failed=self.failed,
            unfit=self._unfit,
        )

    async def _follow(self) -> None:
        complaint = None
        while not self._closing:
            self._residents.changed.clear()
            try:
                await self._look()
                self._settle()
                await self._report()
                complaint = None
            except Exception as error:  # a full disk, a folder unmounted: requests are still being served
                if complaint != repr(error):
                    _log.exception("cannot follow the deployment; trying on")
                complaint = repr(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._residents.changed.wait()

    async def _look(self) -> None:
        """Read deployment.json if it was replaced, or could not be read the last time."""
        try:
            stamp = await asyncio.to_thread(deployment.stamp, self._models)
            if stamp == self._stamp and self._complaint is None:
                return
            if stamp is None:
                raise BundleError("deployment.json is gone; put it back, or promote a version")
            desired = await asyncio.to_thread(deployment.read, self._models)
        except BundleError as error:
            if self._complaint != str(error):
                _log.error("%s", error)
            self._complaint = str(error)
            return
        self._stamp, self._complaint = stamp, None
        self._residents.forget({version for _, _, version in _named(desired) - _named(self._written)})
        self._written = desired

    def _settle(self) -> None:
        """Take every step that can be taken now."""
        self._desired = self._written.as_of(time.time())
        while action := plan(self._desired, self._local()):
            self._apply(action)
        self._fusions = {
            name: _fitting(resident.model, ranker.fusion)
            for name, (resident, _) in self._serving.items()
            if (ranker := self._desired.rankers[name]).fusion is not None
        }
        self._unfit = {
            name: str(error)
            for name, ranker in self._desired.rankers.items()
            if ranker.fusion is not None and (staged := self._residents.ready.get(ranker.staged or ""))
            if isinstance(error := _fitting(staged.model, ranker.fusion), FusionError)
        }

    def _local(self) -> Local:
        return Local(
            serving={name: resident.version for name, (resident, _) in self._serving.items()},
            ready=frozenset(self._residents.ready),
            failed=frozenset(self._residents.failed),
            due=self._residents.due,
            loading=self._residents.loading,
            retiring=len(self._residents.retiring),
        )

    def _apply(self, action: Action) -> None:
        _log.info("%s", action)
        match action:
            case Load(version):
                self._residents.load(version)
            case Move(ranker, version):
                self._serving[ranker] = self._residents.ready[version], time.time()
            case Drop(ranker):
                del self._serving[ranker]
            case Retire(version):
                self._residents.retire(version)

    async def _report(self) -> None:
        """Write the status file where it would say something new, and as a heartbeat."""
        status, now = self.status(), time.monotonic()
        if self._reported is not None:
            last, at = self._reported
            news = status != last.model_copy(update={"heartbeat": status.heartbeat})
            if not news and now - at < self._heartbeat_s:
                return
        await asyncio.to_thread(deployment.report, self._models, status)
        self._reported = status, now

    def _refusal(self, ranker: str) -> NotReady | UnknownRanker:
        """Why a ranker that serves with nothing does not."""
        if self._closing:
            return NotReady("this worker is about to end; send the request again")
        deployed = self._desired.rankers.get(ranker)
        if deployed is not None:
            return NotReady(f"ranker {ranker!r}: {self._problem(deployed, None, None)}")
        if self._desired.rankers:
            return UnknownRanker(ranker, self._desired.rankers)
        return NotReady("nothing is deployed yet; promote a version")

    def _served(self, name: str) -> Served:
        resident, since = self._serving.get(name, (None, None))
        version, deployed = resident.version if resident else None, self._desired.rankers.get(name)
        problem = self._problem(deployed, version, self._fusions.get(name)) if deployed else None
        return Served(version, since, deployed, problem)

    def _problem(
        self, deployed: DeployedRanker, version: str | None, fusion: FusionFormula | FusionError | None
    ) -> str | None:
        if deployed.version is None:
            return "no version was ever promoted"
        if deployed.version != version:
            return self.failed.get(deployed.version, f"{deployed.version} is being loaded")
        return f"the deployed fusion does not fit: {fusion}" if isinstance(fusion, FusionError) else None


def _named(desired: Deployment) -> set[tuple[str, int, str]]:
    """What a deployment wants in memory, each version with its ranker and the operation that named it."""
    return {
        (name, ranker.operation, version)
        for name, ranker in desired.rankers.items()
        for version in (ranker.version, ranker.staged)
        if version is not None
    }


def _fitting(model: Model, formula: FusionFormula) -> FusionFormula | FusionError:
    try:
        model.check(formula)
    except FusionError as error:
        return error
    return formula
