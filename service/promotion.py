"""Promote a version: stage it, wait until every live worker is ready, move the ranker, wait until all follow.

Works on `deployment.json` and the workers' status files alone, so an API worker and the command line do the
same. Operations on one ranker overtake each other: the last to begin wins, the earlier ones are told.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, Deployment, WorkerStatus
from service.bundle.errors import BundleError, FusionError
from service.bundle.fusion import FusionFormula
from service.bundle.store import NAME, versions
from service.errors import InvalidRequest, Superseded, SwapRefused, UnknownRanker, UnknownVersion

_POLL_S = 0.05
_FOLLOW_S = 10.0

Check = Callable[[str, FusionFormula | None], object]
"""Blocking: loads a version, golden requests and all, and raises BundleError with the reason why not, or
FusionError where it cannot compute the formula that is deployed in place of its own."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """A ranker that has moved."""

    ranker: str
    version: str
    previous: str | None
    generation: int
    workers: tuple[str, ...]
    """that serve with it"""
    behind: dict[str, str]
    """live workers that do not, and why; empty but for a worker that broke, or hangs, on the way"""


async def promote(
    models: Path, ranker: str, version: str, *, check: Check, timeout_s: float = 120.0
) -> Promoted:
    """Let a ranker, which is made where there is none of that name, serve with a version.

    `check` is called only where no worker is alive. All of it takes at most about `timeout_s` seconds.

    Raises:
        UnknownVersion: no bundle of that version.
        InvalidRequest: that is no name for a ranker.
        SwapRefused: a worker could not load it, or not in time, with the reasons; all serve as before.
        Superseded: a later operation on this ranker began.
        BundleError: deployment.json cannot be read.
    """
    if not re.fullmatch(NAME, ranker):
        raise InvalidRequest("ranker", "a ranker's name has letters, digits, '.', '_' and '-' only")
    known = await asyncio.to_thread(versions, models)
    if version not in known:
        raise UnknownVersion(version, known)
    return await _operate(models, ranker, lambda _: version, check, timeout_s)


async def rollback(models: Path, ranker: str, *, check: Check, timeout_s: float = 120.0) -> Promoted:
    """Promote what a ranker served with before; twice is back again.

    Raises:
        UnknownRanker: none of that name is deployed.
        SwapRefused: there is nothing to go back to; else as `promote`.
    """

    def previous(deployed: Deployment) -> str:
        if ranker not in deployed.rankers:
            raise UnknownRanker(ranker, deployed.rankers)
        version = deployed.rankers[ranker].previous
        if version is None:
            raise SwapRefused(f"ranker {ranker!r} has no previous version; promote one by name")
        return version

    return await _operate(models, ranker, previous, check, timeout_s)


async def _operate(
    models: Path, ranker: str, choose: Callable[[Deployment], str], check: Check, timeout_s: float
) -> Promoted:
    until = time.time() + timeout_s + deployment.STALE_S
    beginning = asyncio.create_task(asyncio.to_thread(_Operation.begin, models, ranker, choose, until))
    try:
        operation = await asyncio.shield(beginning)
        await operation.all_ready(check, timeout_s)
        moved = await asyncio.to_thread(operation.move)
    finally:  # refused, cancelled or broken; where it has moved there is nothing left to unstage
        operation = await beginning  # cancelling it stopped no thread: it stages all the same
        await asyncio.to_thread(operation.unstage)
    return await operation.all_follow(moved, min(timeout_s, _FOLLOW_S))


@dataclass(frozen=True, slots=True)
class _Operation:
    models: Path
    ranker: str
    version: str
    number: int
    """the generation that staged it"""

    @classmethod
    def begin(
        cls, models: Path, ranker: str, choose: Callable[[Deployment], str], until: float
    ) -> _Operation:
        """Stage the version that `choose` picks, and so overtake whatever is under way on this ranker.

        No worker heeds it after `until`, in seconds since the epoch: this process may die without a word.
        """

        def change(deployed: Deployment) -> Deployment:
            present = deployed.rankers.get(ranker, DeployedRanker())
            update = {
                "staged": choose(deployed),
                "staged_until": until,
                "operation": deployed.generation,
            }
            return deployed.having(ranker, present.model_copy(update=update))

        staged = deployment.update(models, change)
        return cls(models, ranker, str(staged.rankers[ranker].staged), staged.generation)

    async def all_ready(self, check: Check, timeout_s: float) -> None:
        """Wait until every live worker can serve with the version; `check` it where there is none."""
        deadline = time.monotonic() + timeout_s
        while True:
            alive = await asyncio.to_thread(self._look)
            waiting = [status.worker for status in alive if not self._is_ready(status)]
            if not waiting:
                break
            if time.monotonic() > deadline:
                late = dict.fromkeys(waiting, f"not loaded within {timeout_s:g} s")
                raise SwapRefused(f"{self.version} was not loaded in time; all serve as before", late)
            await asyncio.sleep(_POLL_S)
        if not alive:
            present = self._present(await asyncio.to_thread(deployment.read, self.models))
            try:
                await asyncio.to_thread(check, self.version, present.fusion)
            except (BundleError, FusionError) as error:
                raise SwapRefused(f"{self.version} cannot be loaded: {error}") from None

    def move(self) -> Deployment:
        """Let the ranker serve with the version.

        Raises:
            Superseded: a later operation on this ranker began.
            SwapRefused: it is not staged any more.
        """

        def change(deployed: Deployment) -> Deployment:
            present = self._present(deployed)
            if present.staged != self.version:  # let go while this waited: cancelling it stopped no thread
                raise SwapRefused(f"{self.version} was unstaged before ranker {self.ranker!r} could move")
            previous = present.previous if present.version == self.version else present.version
            update = {"version": self.version, "previous": previous, "staged": None, "staged_until": None}
            return deployed.having(self.ranker, present.model_copy(update=update))

        return deployment.update(self.models, change)

    def unstage(self) -> None:
        """Take back what `begin` did, unless it is done with or overtaken."""

        def change(deployed: Deployment) -> Deployment:
            present = deployed.rankers.get(self.ranker)
            if present is None or present.operation != self.number or present.staged is None:
                return deployed
            return deployed.unstaged(self.ranker)

        deployment.update(self.models, change)

    async def all_follow(self, moved: Deployment, timeout_s: float) -> Promoted:
        """Wait until every live worker serves with the version, or is known to be unable to."""
        deadline = time.monotonic() + timeout_s
        while True:
            deployed, alive = await asyncio.to_thread(self._read)
            if (present := deployed.rankers.get(self.ranker)) is None or present.version != self.version:
                raise Superseded(f"a later operation has moved ranker {self.ranker!r} on")
            behind = {
                status.worker: status.failed.get(self.version)
                for status in alive
                if status.generation < moved.generation or status.rankers.get(self.ranker) != self.version
            }
            if None not in behind.values() or time.monotonic() > deadline:
                break
            await asyncio.sleep(_POLL_S)
        return Promoted(
            ranker=self.ranker,
            version=self.version,
            previous=moved.rankers[self.ranker].previous,
            generation=moved.generation,
            workers=tuple(status.worker for status in alive if status.worker not in behind),
            behind={worker: reason or f"not within {timeout_s:g} s" for worker, reason in behind.items()},
        )

    def _read(self) -> tuple[Deployment, list[WorkerStatus]]:
        # In this order: what the workers tell of a later operation must not be taken for this one's.
        alive = deployment.live(self.models)
        return deployment.read(self.models), alive

    def _look(self) -> list[WorkerStatus]:
        """The live workers, while this operation is the last and none of them has failed."""
        deployed, alive = self._read()
        self._present(deployed)
        current = [status for status in alive if status.generation >= self.number]
        refusals = {
            status.worker: status.failed.get(self.version) or status.unfit.get(self.ranker)
            for status in current
        }
        if reasons := {worker: reason for worker, reason in refusals.items() if reason}:
            raise SwapRefused(f"{self.version} could not be loaded; all serve as before", reasons)
        return alive

    def _is_ready(self, status: WorkerStatus) -> bool:
        return status.generation >= self.number and self.version in status.ready

    def _present(self, deployed: Deployment) -> DeployedRanker:
        present = deployed.rankers.get(self.ranker)
        if present is None or present.operation != self.number:
            raise Superseded(f"a later operation on ranker {self.ranker!r} overtook this one")
        return present
