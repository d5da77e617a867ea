"""The composition root: what a worker is made of, and the order in which it opens and closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.api import Serving, errors, health, models, openapi, rank, rankers
from service.api import features as feature_routes
from service.api.edge import Edge
from service.batcher import BatchRun
from service.bundle import deployment
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.bundle.rows import Items
from service.choice import default_state_mib
from service.cores import Cores
from service.engine import EngineOptions
from service.errors import NotReady
from service.features.features import FeatureOptions, Features
from service.features.memory import MemoryFeatureStore
from service.features.renewal import Renewed
from service.ledger import Ledger
from service.machine import memory_bytes
from service.model import Model, ModelOptions
from service.promotion import Check
from service.ranker import Ranker
from service.registry import Registry
from service.settings import Settings
from service.telemetry import Telemetry
from service.versions import Versions

WATCH_S = 0.25
"""Between two looks at how late the event loop wakes, and at what serves."""

GROW_S = 1.0
"""Between two looks at whether there is more room for items' state."""

Load = Callable[[str], Model]
"""Makes a model of a version; blocks, and raises BundleError with the reason why not."""

_log = logging.getLogger(__name__)


def create_app(settings: Settings, load: Load | None = None, cores: Cores | None = None) -> FastAPI:
    """The service as an ASGI app; its lifespan loads what is deployed, and frees it.

    `app.state.serving` is its `Serving`: tell it to `drain` before the end. Models are read from the bundles
    of the models folder, unless `load` makes them. They may borrow `cores` of other workers.
    """
    telemetry = Telemetry(settings.metrics_dir)
    executor = ThreadPoolExecutor(1, "engine")
    load = load or loader(settings, executor, telemetry, cores)
    registry = Registry(settings.models, _counted(load, telemetry))
    features = _features(settings, telemetry, partial(_renewed, registry))
    ranker, versions = Ranker(registry, features, telemetry), Versions(settings.models)
    serving = Serving(settings, telemetry, registry, features, ranker, versions, check=proof(load))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(serving):
            yield
        executor.shutdown(wait=False)

    app: FastAPI = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        title="rankserve",
        version=_own_version(),
        description="One user and a list of candidates in, the ordered slate out.",
        lifespan=lifespan,
    )
    app.state.serving = serving
    for module in (rank, models, rankers, feature_routes, health):
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(Edge, telemetry=telemetry)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def loader(settings: Settings, executor: Executor, telemetry: Telemetry, cores: Cores | None = None) -> Load:
    """Makes models of the bundles in the models folder; long runs share one thread."""
    options = ModelOptions(
        engine=EngineOptions(
            provider=settings.provider,
            threads=settings.intra_op_threads or 1,
            max_rows=settings.max_batch_rows,
        ),
        max_batch_rows=settings.max_batch_rows,
        max_queued_rows=settings.max_queued_rows,
        share_runs=settings.share_runs == "auto",
        inline_s=(settings.inline_ms or 0) / 1e3,
        cores=cores if settings.intra_op_threads in {None, 1} else None,
        precision=settings.precision,
        ledger=_ledger(settings),
    )

    def observe(run: BatchRun) -> None:
        telemetry.batch(run.entries, run.rows, run.run_s, queue_s=run.queue_s, failed=run.failed)

    def load(version: str) -> Model:
        return Model.load(settings.models / version, options, executor, observe)

    return load


def _ledger(settings: Settings) -> Ledger:
    mib = default_state_mib(memory_bytes()) if settings.state_mib is None else settings.state_mib
    workers = settings.workers or 1
    return Ledger(mib * 2**20, workers, settings.state_dir if workers > 1 else None)


def proof(load: Load) -> Check:
    """Loads a version as a worker would, and lets it go again."""

    def check(version: str, formula: FusionFormula | None) -> None:
        model = load(version)
        try:
            if formula is not None:
                model.check(formula)
        finally:
            model.close()

    return check


def _counted(load: Load, telemetry: Telemetry) -> Load:
    def counted(version: str) -> Model:
        with telemetry.load():
            return load(version)

    return counted


@asynccontextmanager
async def _running(serving: Serving) -> AsyncIterator[None]:
    await serving.features.open()
    try:
        await serving.registry.open()
        await _all_tried(serving)
        await _not_beside_better(serving)
        watch = asyncio.create_task(_watch(serving), name="watch")
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
    finally:
        await serving.registry.close()
        await serving.features.close()
        serving.telemetry.settle()


async def _all_tried(serving: Serving) -> None:
    """Wait until every deployed ranker serves, or there is nothing left to try for it.

    A worker takes no traffic before: no request may meet one that comes back while the others serve.
    """
    registry, generation = serving.registry, 0
    with suppress(BundleError):  # the registry finds the same, and says so in /readyz
        generation = (await asyncio.to_thread(deployment.read, serving.settings.models)).generation
    # Looked at and not waited for: several things end it, and it happens once in a process.
    while not registry.complaint and not _tried(registry, generation):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def _tried(registry: Registry, generation: int) -> bool:
    """Has all been done, as far as it can be, that this generation of the deployment asks for?"""
    return registry.status().generation >= generation and not registry.waiting


async def _not_beside_better(serving: Serving) -> None:
    """Raise NotReady where another worker on this host serves a ranker that this one cannot.

    They share a socket, and this one would refuse half of the requests that the other could answer. It fails
    to start instead, and the supervisor starts it again later.
    """
    own = serving.registry.status()
    alive = await asyncio.to_thread(deployment.live, serving.settings.models)
    others = (
        other.rankers.keys() for other in alive if other.host == own.host and other.worker != own.worker
    )
    if missing := set().union(*others) - own.rankers.keys():
        why = (
            serving.registry.complaint or "; ".join(serving.registry.failed.values()) or "it is not deployed"
        )
        raise NotReady(f"another worker serves {', '.join(sorted(missing))}, and this one cannot: {why}")


async def _watch(serving: Serving) -> None:
    """Measure what only time shows: how late the event loop wakes, and what serves; and let that grow."""
    loop, complaint = asyncio.get_running_loop(), None
    grown = loop.time()
    while True:
        due = loop.time() + WATCH_S
        await asyncio.sleep(WATCH_S)
        try:
            _measure(serving, late_s=max(0.0, loop.time() - due))
            if due - grown >= GROW_S:
                grown = due
                for resident in serving.registry.residents():
                    if not resident.retired:  # while the one before it grew
                        await asyncio.to_thread(resident.model.grow)
            complaint = None
        except Exception as error:  # a full disk under the metrics: requests are still being served
            if complaint != repr(error):
                _log.exception("cannot measure what serves; trying on")
            complaint = repr(error)


def _measure(serving: Serving, late_s: float) -> None:
    serving.telemetry.lag(late_s)
    residents = serving.registry.residents()
    provider = next((resident.model.provider for resident in residents), "none")
    serving.telemetry.serving(serving.registry.status().rankers, provider)
    serving.telemetry.pending(sum(resident.model.batcher.pending_rows for resident in residents))
    serving.telemetry.state({resident.version: resident.model.state.counts for resident in residents})
    serving.telemetry.store_state(serving.features.store.state)
    problems = [ranker for ranker in serving.registry.rankers().values() if ranker.problem]
    serving.telemetry.not_as_deployed(len(problems))


def _features(settings: Settings, telemetry: Telemetry, renewed: Renewed) -> Features:
    """Rows in Redis where there is one; else in this worker's memory, which only a lone worker can keep."""
    options = FeatureOptions(
        timeout_s=settings.features_timeout_ms / 1e3,
        ttl_s=settings.features_ttl_s,
        near_rows=settings.features_near_rows,
    )
    alone = settings.workers in {None, 1}
    if settings.redis is None:
        return Features(MemoryFeatureStore(), options, telemetry, shared=alone, alone=alone, renewed=renewed)
    # Imported here: a service without Redis does without its client.
    from service.features.redis import RedisFeatureStore, RedisOptions

    store = RedisFeatureStore(
        settings.redis.get_secret_value(),
        RedisOptions(
            prefix=settings.redis_prefix,
            timeout_s=options.timeout_s,
            connect_timeout_s=settings.redis_connect_timeout_ms / 1e3,
        ),
    )
    return Features(store, options, telemetry, alone=alone, renewed=renewed)


def _renewed(registry: Registry, encoder: Encoder, items: Items) -> None:
    """Items of some version have changed: its model computes their state before it is asked for."""
    for resident in registry.residents():
        if resident.model.encoder is encoder:
            resident.model.hold(items)


def _own_version() -> str:
    try:
        return version("rankserve")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
