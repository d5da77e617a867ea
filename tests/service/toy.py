"""A whole service but for the graphs: the real app, registry, encoder and batcher around a toy of an engine.

Items are named 1 to 9, users 1 to 3. Version "up" likes items of a high number, "down" those of a low one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import numpy as np
from fastapi import FastAPI

from service.api import Serving
from service.api.rank import DirectRank
from service.app import Load, create_app
from service.batcher import Batcher
from service.bundle import deployment, store
from service.bundle.columns import Numbers, strings
from service.bundle.deployment import DeployedRanker
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.fusion import Factor, FusionFormula, Group
from service.bundle.kinds import Categorical, Fitted, Numeric, VocabularySpec
from service.bundle.manifest import Manifest, TaskSpec
from service.bundle.rows import Encoded, Items
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from service.bundle.vocabulary import Vocabulary
from service.engine import Inference
from service.errors import InferenceFailed
from service.precision import Chosen
from service.settings import Settings
from service.state import StateFigures
from tests.service.shelf import NamedWarming

A = TypeVar("A")
ITEMS, USERS = strings("123456789"), strings("123")
POISON_AGE = 666
RUNTIME_AGE = 667
"""of a user for whom the runtime fails, and not the code around it"""
NO_NUMBER = "9"
"""the item that no version gives a number for, when asked for by a user who is 13"""

SCHEMA = FeatureSchema(
    features=(
        Categorical(kind="categorical", name="item", source="item.item_id"),
        Numeric(kind="numeric", name="duration", source="item.duration", standardise=False),
        Numeric(kind="numeric", name="age", source="user.age", standardise=False),
        Numeric(kind="numeric", name="hour", source="context.hour", standardise=False),
    ),
    fitted=Fitted(vocabularies={"item": VocabularySpec(rows=10)}),
)
TASKS = (
    TaskSpec(name="click", kind="binary", event="click"),
    TaskSpec(name="watch", kind="regression", event="watch", unit="s"),
)
FORMULA = FusionFormula(groups=(Group(factors=(Factor(task="click"), Factor(task="watch", weight=0.5))),))
TABLES = {
    "user": Table("user", (USERS,), {"age": Numbers(np.array([20.0, 30.0, 40.0]))}),
    "item": Table("item", (ITEMS,), {"duration": Numbers(np.arange(10.0, 100.0, 10.0))}),
}


class ToyModel:
    """A version in memory. Its engine tells when it has `begun` a run, and goes on when it is `free`."""

    provider = "toy"
    state = StateFigures("resident", 3, 300, "float32", False, {"hit": 7, "miss": 2, "evicted": 0})
    precision = Chosen(precision="float32")
    formula = FORMULA

    def __init__(self, version: str, executor: ThreadPoolExecutor, max_queued_rows: int = 1_000) -> None:
        self.version, self.warming = version, NamedWarming(version)
        self.encoder = Encoder(SCHEMA, {"item": Vocabulary(ITEMS)}, TABLES)
        self.free, self.begun = threading.Event(), threading.Event()
        self.free.set()
        self.runs: list[int] = []
        self.held: list[int] = []
        self.batcher: Batcher[Encoded, Inference] = Batcher(
            self.run, len, executor, max_rows=100, max_entries=8, max_queued_rows=max_queued_rows
        )

    def run(self, batch: Sequence[Encoded]) -> list[Inference]:
        """The engine: scores by the item's number; poison and no numbers by the user's age."""
        self.begun.set()
        self.free.wait(10)
        self.runs.append(len(batch))
        return [self._infer(encoded) for encoded in batch]

    def check(self, formula: FusionFormula) -> None:
        """Refuse what this version cannot compute."""
        formula.check([task.name for task in TASKS], ["duration"])

    async def drain(self) -> None:
        """Wait for what is under way."""
        await self.batcher.drain()

    def grow(self) -> None:
        """It has room for all items."""

    def hold(self, items: Items) -> None:
        """It has no state, and notes whose it would be."""
        self.held += items.row.tolist()

    def close(self) -> None:
        """Nothing to give back."""

    def _infer(self, encoded: Encoded) -> Inference:
        age = encoded.user.value[0, 0]
        if age == POISON_AGE:
            raise RuntimeError("the engine broke in /var/secret")
        if age == RUNTIME_AGE:
            raise InferenceFailed from ValueError("node /rank/Gather: out of range")
        click = encoded.item_row / np.float32(10)
        click = click if self.version == "up" else 1 - click
        if age == 13:
            click = np.where(encoded.item_row == int(NO_NUMBER), np.float32("nan"), click)
        watch = 1 + encoded.item_row.astype(np.float32)
        return Inference({"click": click.astype(np.float32), "watch": watch}, 0.1, 0.0, 0.2)


class Toy:
    """The app over a models folder with the versions "up" (deployed) and "down"; and a client of it."""

    def __init__(self, models: Path, **settings: Any) -> None:
        self.settings = Settings(models=models, **{"deadline_ms": 10_000, **settings})
        self.executor = ThreadPoolExecutor(1, "toy")
        self.models: dict[str, ToyModel] = {}
        self.held: dict[str, threading.Event] = {}
        self.app: FastAPI = create_app(self.settings, cast(Load, self.load))
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(DirectRank(self.app)), base_url="http://toy"
        )

    def hold(self, version: str) -> threading.Event:
        """Let a version load only once the event is set."""
        self.held[version] = threading.Event()
        return self.held[version]

    def load(self, version: str) -> ToyModel:
        """What the registry makes models with."""
        if version in self.held:
            assert self.held[version].wait(10)
        if "broken" in version:
            raise BundleError(f"{version}: weights.bin was altered")
        self.models[version] = ToyModel(version, self.executor, self.settings.max_queued_rows)
        return self.models[version]

    @property
    def serving(self) -> Serving:
        """What the routes stand on."""
        serving: Serving = self.app.state.serving
        return serving

    async def rank(self, **body: Any) -> httpx.Response:
        """POST /v1/rank."""
        return await self.client.post("/v1/rank", json=body)

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        """POST /v1/rank, byte by byte."""
        return await self.client.post("/v1/rank", content=body, headers=headers)


@asynccontextmanager
async def toy(models: Path, *, deployed: str | None = "up", **settings: Any) -> AsyncIterator[Toy]:
    """A running toy service."""
    for version in ("up", "down", "broken"):
        store.write(models, version, partial(bundle, version))
    if deployed:
        ranker = DeployedRanker(version=deployed)
        deployment.update(models, lambda present: present.having("default", ranker))
    service = Toy(models, **settings)
    async with service.app.router.lifespan_context(service.app), service.client:
        yield service
    service.executor.shutdown()


async def eventually(ask: Callable[[], Awaitable[A]], holds: Callable[[A], bool]) -> A:
    """Ask until the answer holds, for at most some seconds."""
    async with asyncio.timeout(5):
        while not holds(answer := await ask()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer


def ids(answer: httpx.Response) -> list[str]:
    """The slate's ids, in order."""
    return [item["id"] for item in answer.json()["items"]]


def bundle(version: str, folder: Path) -> Manifest:
    """The files of a version, but for its graphs."""
    (folder / "weights.bin").write_bytes(b"toy")
    return Manifest(
        version=version,
        created="2024-05-01T00:00:00Z",
        architecture="toy",
        tasks=TASKS,
        features=SCHEMA,
        state=(),
        user_state=(),
        fusion=FORMULA,
        files={},
        metrics={"test": {"click": {"auc": 0.75}}},
        training={"model": {"name": "toy"}},
    )
