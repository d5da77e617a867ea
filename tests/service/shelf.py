"""Models that are names, and a place to load them from that the test controls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, Deployment
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.model import Model
from service.registry import Registry


class NamedWarming:
    """Which versions a version was to be as warm as, and whether it went on with that."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.followed: list[str] = []
        self.has_gone_on = False

    def follow(self, before: NamedWarming) -> None:
        """Remember whom; "cold" cannot be warmed."""
        if self.version == "cold":
            raise BundleError("cold cannot be warmed")
        self.followed.append(before.version)

    async def go_on(self) -> None:
        """There is nothing to do."""
        self.has_gone_on = True


class NamedModel:
    """A version in memory, as far as the registry knows one. Its only task is `click`."""

    def __init__(self, version: str, closed: Callable[[str], None]) -> None:
        self.version, self.warming = version, NamedWarming(version)
        self.is_drained = self.is_closed = False
        self._closed = closed

    def check(self, formula: FusionFormula) -> None:
        """It has one task and no item attributes."""
        formula.check(["click"], [])

    async def drain(self) -> None:
        """Nothing ever waits."""
        self.is_drained = True

    def close(self) -> None:
        """Must come once."""
        assert not self.is_closed
        self.is_closed = True
        self._closed(self.version)


class Shelf:
    """Where versions are loaded from: some are broken, some take until the test lets them."""

    def __init__(self, models: Path, *versions: str) -> None:
        self.broken: dict[str, BaseException] = {}
        self.held: dict[str, threading.Event] = {}
        self.loads: list[str] = []
        self.in_memory: list[str] = []
        self.most = 0
        """versions that were ever in memory at a time"""
        for version in versions:
            (models / version).mkdir(parents=True)
            (models / version / "manifest.json").write_text("{}")

    def hold(self, version: str) -> threading.Event:
        """Let a version load only once the event is set."""
        self.held[version] = threading.Event()
        return self.held[version]

    def load(self, version: str) -> Model:
        """A model of the version. Raises BundleError where it is broken."""
        self.loads.append(version)
        self.in_memory.append(version)
        self.most = max(self.most, len(self.in_memory))
        if version in self.held:
            assert self.held[version].wait(10)
        if version in self.broken:
            self.in_memory.remove(version)
            raise self.broken[version]
        return cast(Model, NamedModel(version, self.in_memory.remove))

    def check(self, version: str, formula: FusionFormula | None) -> None:
        """Prove that a version loads, and can compute a formula."""
        if version in self.broken:
            raise BundleError(str(self.broken[version]))
        if formula is not None:
            formula.check(["click"], [])
        self.loads.append(f"check {version}")


def worker(models: Path, shelf: Shelf, name: str = "w1", retry_s: float = 60) -> Registry:
    """A registry in a hurry, but for what failed."""
    return Registry(models, shelf.load, worker=name, poll_s=0.005, heartbeat_s=0.05, retry_s=retry_s)


def deploy(models: Path, ranker: str = "default", **state: object) -> Deployment:
    """Write one ranker's state, without asking anybody."""
    return deployment.update(models, lambda d: d.having(ranker, DeployedRanker.model_validate(state)))


async def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  whatever it is, it has no event
            await asyncio.sleep(0.002)


def serves(registry: Registry, ranker: str = "default") -> str | None:
    """The version that a request would be answered by; None where it would not be."""
    served = registry.rankers().get(ranker)
    return served.version if served else None


@asynccontextmanager
async def opened(registry: Registry) -> AsyncIterator[Registry]:
    """Follow the deployment meanwhile."""
    await registry.open()
    try:
        yield registry
    finally:
        await registry.close(grace_s=5)


def answered_by(registry: Registry, ranker: str = "default") -> str:
    """The version that answers a request."""
    with registry.lease(ranker) as model:
        return model.version
