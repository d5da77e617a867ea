"""Two workers on one folder, and an operator who promotes and rolls back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service import promotion
from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, live
from service.bundle.fusion import FusionFormula
from service.promotion import Promoted
from service.registry import Registry
from tests.service.shelf import Shelf, deploy, opened, serves, until, worker

Workers = list[Registry]


def unwanted(version: str, formula: FusionFormula | None) -> None:
    """Checks nothing: there are workers to do it."""
    raise AssertionError(f"{version} was checked although workers are alive")


async def promote(models: Path, version: str, ranker: str = "default", timeout_s: float = 10) -> Promoted:
    """Promote, with workers alive."""
    return await promotion.promote(models, ranker, version, check=unwanted, timeout_s=timeout_s)


async def rollback(models: Path) -> Promoted:
    """Roll back, with workers alive."""
    return await promotion.rollback(models, "default", check=unwanted, timeout_s=10)


def state(models: Path, ranker: str = "default") -> DeployedRanker:
    """What is deployed."""
    return deployment.read(models).rankers[ranker]


def all_serve(workers: Workers) -> set[str | None]:
    """The versions the workers serve with."""
    return {serves(registry) for registry in workers}


@asynccontextmanager
async def two_workers(models: Path, shelf: Shelf, other: Shelf) -> AsyncIterator[Workers]:
    """Workers w1 and w2, which load from a shelf each; both serve v1."""
    deploy(models, version="v1")
    async with opened(worker(models, shelf, "w1")) as first, opened(worker(models, other, "w2")) as second:
        await until(lambda: [status.rankers for status in live(models)] == [{"default": "v1"}] * 2)
        yield [first, second]
