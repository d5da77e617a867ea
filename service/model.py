"""A version in memory: what a bundle becomes when it is loaded, proven and warm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from service.batcher import Batcher, BatchRun
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError, FeatureError, FusionError
from service.bundle.fusion import FusionFormula
from service.bundle.golden import GoldenRequest, Scores, disagreement, read_golden
from service.bundle.manifest import Manifest
from service.bundle.rows import Encoded
from service.bundle.snapshot import VOCABULARY_FILE, read_table, read_vocabularies, table_file
from service.bundle.store import verify
from service.engine import Engine, EngineOptions, Inference
from service.errors import InferenceFailed

WARM_UP_RUNS = 3

DEVICE_REQUESTS = 32
"""most requests in a run on a device; on a CPU one request a run is fastest"""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model runs.

    Attributes:
        engine: of onnxruntime.
        max_batch_rows: most candidates in a run.
        max_queued_rows: most candidates that wait.
    """

    engine: EngineOptions = field(default_factory=EngineOptions)
    max_batch_rows: int = 2048
    max_queued_rows: int = 20_000


class Model:
    """A bundle that serves: manifest, encoder, engine, batcher and the bundle's own formula."""

    def __init__(
        self, manifest: Manifest, encoder: Encoder, engine: Engine, batcher: Batcher[Encoded, Inference]
    ) -> None:
        self.manifest = manifest
        self.encoder = encoder
        self.engine = engine
        self.batcher = batcher

    @staticmethod
    def load(
        folder: Path,
        options: ModelOptions,
        executor: Executor,
        observe: Callable[[BatchRun], None] | None = None,
    ) -> Model:
        """Load a bundle: checksums, tables, sessions and state, golden scores, warm-up. Blocks; for a thread.

        The golden requests go through the state arrays, so they prove these too.

        Args:
            folder: of the bundle.
            options: how to run.
            executor: of one thread, which will run the engine.
            observe: told of every run.

        Raises:
            BundleError: the bundle is not what it claims to be; with the reason.
        """
        manifest = verify(folder)
        with ExitStack() as refused:
            encoder = load_encoder(folder, manifest)
            refused.callback(encoder.close)
            _check_own_formula(manifest, encoder)
            engine = Engine(folder, manifest, encoder.items, options.engine)
            refused.callback(engine.close)
            requests, scores = read_golden(folder)
            _check_golden(requests, scores, manifest, encoder, engine)
            _warm_up(requests[0], encoder, engine, options.max_batch_rows)
            refused.pop_all()
        batcher: Batcher[Encoded, Inference] = Batcher(
            engine.run,
            len,
            executor,
            max_rows=options.max_batch_rows,
            max_entries=1 if engine.on_cpu else DEVICE_REQUESTS,
            max_queued_rows=options.max_queued_rows,
            observe=observe,
        )
        return Model(manifest, encoder, engine, batcher)

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

    def check(self, formula: FusionFormula) -> None:
        """Raise FusionError where a formula reads a task or item attribute that this model does not have."""
        _check_formula(formula, self.manifest, self.encoder)

    async def drain(self) -> None:
        """Wait for what was submitted; take no more."""
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


def _check_golden(
    requests: Sequence[GoldenRequest],
    expected: Sequence[Scores],
    manifest: Manifest,
    encoder: Encoder,
    engine: Engine,
) -> None:
    """Raise BundleError unless every golden request gets its scores again, through encoder and engine."""
    for at, (request, scores) in enumerate(zip(requests, expected, strict=True)):
        try:
            found = engine.run([request.encode(encoder)])[0].scores
        except FeatureError as error:
            raise BundleError(f"golden request {at} cannot be encoded: {error}") from error
        except InferenceFailed as error:
            raise BundleError(f"golden request {at} cannot be scored: {error.__cause__}") from error
        if found.keys() != scores.keys():
            raise BundleError(
                f"golden request {at} has the tasks {sorted(scores)}; the model, {sorted(found)}"
            )
        for task, golden in scores.items():
            apart = disagreement(found[task], golden)
            if not apart <= manifest.tolerance:
                raise BundleError(
                    f"golden request {at}: {task} is {apart:.1e} apart from its golden scores, "
                    f"more than {manifest.tolerance:.0e}; these weights are not the ones that were exported"
                )


def _warm_up(request: GoldenRequest, encoder: Encoder, engine: Engine, rows: int) -> None:
    """Run the largest batch a few times, so that no request pays for the memory it needs."""
    items = (request.item_ids * rows)[:rows]
    largest = request.model_copy(update={"item_ids": items, "inline": {}}).encode(encoder)
    for _ in range(WARM_UP_RUNS):
        engine.run([largest])
