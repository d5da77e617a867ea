"""A version in memory: what a bundle becomes when it is loaded, proven and warm."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from math import prod
from pathlib import Path
from typing import Literal

from service.batcher import Batcher, BatchRun
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError, FeatureError, FusionError
from service.bundle.fusion import FusionFormula
from service.bundle.golden import GoldenRequest
from service.bundle.manifest import Manifest, Precision
from service.bundle.rows import Encoded, Items
from service.bundle.snapshot import VOCABULARY_FILE, read_table, read_vocabularies, table_file
from service.bundle.store import verify
from service.cores import Cores
from service.cost import Cost
from service.engine import ERRORS, Engine, EngineOptions, Inference
from service.ledger import Ledger
from service.precision import Chosen
from service.proof import check_golden
from service.sharing import SHAPES, SMALL, Sharing, choose, measure
from service.state import StateFigures
from service.trial import FLOAT32, choose_precision
from service.warming import Warming

WARM_UP_RUNS = 3

BATCH_REQUESTS = 32
BATCH_ROWS = 1024
"""most of a batch of several requests, on a CPU: the first answer of a batch waits for the last"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model runs.

    Attributes:
        engine: of onnxruntime.
        max_batch_rows: most candidates that are run together; of several requests on a CPU 1,024, if less.
        max_queued_rows: most candidates that wait.
        share_runs: whether requests may be run together, and share runs where that is faster.
        inline_s: a batch that should take no longer is run on the event loop.
        cores: that runs may borrow of other workers.
        precision: of the deeper layers, and of the items' state; ``auto`` takes int8 where the bundle has it
            and it is faster here.
        ledger: of the memory of items' state, of all models; without one there is no limit.
    """

    engine: EngineOptions = field(default_factory=EngineOptions)
    max_batch_rows: int = 2048
    max_queued_rows: int = 20_000
    share_runs: bool = True
    inline_s: float = 0.0
    cores: Cores | None = None
    precision: Precision | Literal["auto"] = "auto"
    ledger: Ledger | None = None


class Model:
    """A bundle that serves: manifest, encoder, engine, batcher and the bundle's own formula."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        engine: Engine,
        batcher: Batcher[Encoded, Inference],
        precision: Chosen,
    ) -> None:
        self.manifest = manifest
        self.encoder = encoder
        self.engine = engine
        self.batcher = batcher
        self.precision = precision
        self.warming = Warming(encoder, engine.table, lambda: not batcher.busy)

    @staticmethod
    def load(
        folder: Path,
        options: ModelOptions,
        executor: Executor,
        observe: Callable[[BatchRun], None] | None = None,
    ) -> Model:
        """Load a bundle: checksums, tables, sessions and state, golden scores, warm-up. Blocks; for a thread.

        Args:
            folder: of the bundle.
            options: how to run.
            executor: of one thread, for the runs that are not short; `observe` is told of every run.

        Raises:
            BundleError: the bundle is not what it claims to be; with the reason.
        """
        manifest = verify(folder)
        with ExitStack() as refused:
            encoder = load_encoder(folder, manifest)
            refused.callback(encoder.close)
            _check_own_formula(manifest, encoder)
            engine, requests, chosen = _proven(folder, manifest, encoder, options)
            refused.callback(engine.close)
            sharing, cost = _warm_up(requests, encoder, engine, options)
            refused.pop_all()
        _log.info("%s: %s", manifest.version, sharing)
        batcher: Batcher[Encoded, Inference] = Batcher(
            partial(engine.run, cores=options.cores),
            len,
            executor,
            max_rows=min(options.max_batch_rows, BATCH_ROWS if engine.on_cpu else sys.maxsize),
            max_entries=BATCH_REQUESTS if options.share_runs else 1,
            max_queued_rows=options.max_queued_rows,
            inline_s=options.inline_s,
            observe=observe,
            cost=cost,
        )
        return Model(manifest, encoder, engine, batcher, chosen)

    @property
    def version(self) -> str:
        """The bundle's name."""
        return self.manifest.version

    @property
    def formula(self) -> FusionFormula:
        """The bundle's own."""
        return self.manifest.fusion

    @property
    def provider(self) -> str:
        """The execution provider in use, by onnxruntime's name."""
        return self.engine.provider

    @property
    def state(self) -> StateFigures:
        """How its items' state is held by now."""
        return self.engine.state

    def grow(self) -> None:
        """Hold more of its items' state, where more is needed and there is room by now. Any thread may."""
        self.engine.grow()

    def hold(self, items: Items) -> None:
        """Compute the state of items that have changed at once, before requests do it, each of a few.

        They still do where the engine is at work now, as it is one thread's at a time, and where this fails.
        """
        if not self.batcher.running:
            try:
                self.engine.table.hold(items)
            except ERRORS:
                _log.exception("%s: the state of changed items could not be computed ahead", self.version)

    def check(self, formula: FusionFormula) -> None:
        """Raise FusionError where a formula reads a task or item attribute that this model does not have."""
        _check_formula(formula, self.manifest, self.encoder)

    async def drain(self) -> None:
        """Wait for what was submitted; take no more."""
        self.warming.end()
        await self.batcher.drain()

    def close(self) -> None:
        """Give the memory back. Nothing may be running."""
        self.engine.close()
        self.encoder.close()


def load_encoder(folder: Path, manifest: Manifest) -> Encoder:
    """The encoder of a bundle. Raises BundleError where tables, vocabularies and schema do not fit."""
    schema = manifest.features
    tables = {name: read_table(folder / table_file(name), name) for name in ("user", "item", *schema.tables)}
    try:
        return Encoder(schema, read_vocabularies(folder / VOCABULARY_FILE, schema), tables)
    except FeatureError as error:
        raise BundleError(f"{manifest.version}: the features do not fit the bundle: {error}") from error


def _check_formula(formula: FusionFormula, manifest: Manifest, encoder: Encoder) -> None:
    formula.check(manifest.outputs(), encoder.attributes)


def _check_own_formula(manifest: Manifest, encoder: Encoder) -> None:
    try:
        _check_formula(manifest.fusion, manifest, encoder)
    except FusionError as error:
        raise BundleError(f"{manifest.version}: the formula does not fit the bundle: {error}") from error


def _proven(
    folder: Path, manifest: Manifest, encoder: Encoder, options: ModelOptions
) -> tuple[Engine, Sequence[GoldenRequest], Chosen]:
    """An engine that gives the golden scores, the golden requests, and what it ranks in."""
    chosen = choose_precision(folder, manifest, encoder, options.engine, options.precision)
    while True:
        with ExitStack() as refused:
            precision = chosen.precision
            engine = Engine(folder, manifest, encoder.items, options.engine, options.ledger, precision)
            refused.callback(engine.close)
            try:
                requests = check_golden(folder, manifest, encoder, engine)
            except BundleError as error:
                if options.precision != "auto" or precision == "float32":
                    raise
                # Right when it was measured: by another processor under this host's name, perhaps.
                _log.warning("%s is ranked in float32: in %s, %s", manifest.version, precision, error)
                chosen = FLOAT32
                continue
            refused.pop_all()
            return engine, requests, chosen


def _warm_up(
    requests: Sequence[GoldenRequest], encoder: Encoder, engine: Engine, options: ModelOptions
) -> tuple[Sharing, Cost]:
    """Run the largest batch a few times, so that no request pays for the memory it needs; time small ones.

    Which requests are to share runs, and what a batch costs, from a row to the most rows.
    """
    most = options.max_batch_rows
    shapes = [shape for shape in SHAPES if options.share_runs and engine.on_cpu and prod(shape[:2]) <= most]
    single = [(1, rows, False) for rows in (1, SMALL, most)]
    alike = {rows: _of_rows(requests[0], rows).encode(encoder) for _, rows, _ in (*single, *shapes)}

    def run(requests: int, rows: int, shared: bool) -> None:
        engine.share(rows if shared else 0)
        engine.run([alike[rows]] * requests)

    seconds = measure(run, single, rounds=WARM_UP_RUNS) | measure(run, shapes)
    sharing = choose(seconds) if engine.on_cpu or not options.share_runs else Sharing(most)
    cost = Cost.through(
        [
            (requests * rows, taken)
            for (requests, rows, shared), taken in seconds.items()
            if requests == 1 or shared == (rows <= sharing.rows)
        ]
    )
    engine.share(sharing.rows)
    engine.count_anew()
    return sharing, cost


def _of_rows(request: GoldenRequest, rows: int) -> GoldenRequest:
    """The request with so many candidates: its own, over and over."""
    ids = list(islice(cycle(request.item_ids), rows))
    return request.model_copy(update={"item_ids": ids, "inline": {}})
