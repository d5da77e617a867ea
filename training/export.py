"""A trained model -> a verified bundle: graphs, tables, vocabularies, golden requests, manifest.

Nothing is written that does not agree: torch, `flat.onnx`, and `user` + `item` + `rank` through the service's
own engine must give the same scores, or there is no bundle.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.golden import disagreement, write_golden
from service.bundle.manifest import TOLERANCE, Manifest, Metrics, graph_inputs
from service.bundle.rows import Columns, Encoded
from service.bundle.schema import Side
from service.bundle.snapshot import (
    VOCABULARY_FILE,
    read_table,
    read_vocabularies,
    table_file,
    write_table,
    write_vocabularies,
)
from service.bundle.store import write
from service.engine import Engine, EngineOptions, open_session
from training.config import TrainingConfig
from training.evaluate import scores_of
from training.examples import arrays_of
from training.golden import ParityCase, golden_requests, parity_cases
from training.graphs import flat_graph, item_graph, rank_graph, state_arrays, user_graph, user_state
from training.impressions import Impressions
from training.models import MultiTaskModel
from training.provenance import commit_of, library_versions
from training.weights import write_graphs

PARITY_ROWS = (1, 7, 1000)

Scores = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made.

    Attributes:
        model: with its best weights.
        encoder: fitted to the training part.
        config: of the run.
        seed: of weights and batches.
        metrics: offline, by part of the split.
        sample: impressions to take golden and parity requests from.
    """

    model: MultiTaskModel
    encoder: Encoder
    config: TrainingConfig
    seed: int
    metrics: dict[str, dict[str, Metrics]]
    sample: Impressions


def export(trained: Trained, models: Path, version: str) -> Path:
    """Write the bundle ``models/<version>/``.

    Raises:
        BundleError: the version exists, or the graphs disagree.
        FusionError: the formula reads a task or item attribute that there is not.
    """
    manifest = _manifest(trained, version)
    manifest.fusion.check(manifest.outputs(), trained.encoder.tables["item"].columns)
    return write(models, version, lambda folder: _fill(folder, trained, manifest))


def _fill(folder: Path, trained: Trained, manifest: Manifest) -> Manifest:
    write_graphs(folder, _graphs(trained.model.eval(), manifest))
    write_vocabularies(folder / VOCABULARY_FILE, trained.encoder.vocabularies)
    for name, table in trained.encoder.tables.items():
        write_table(folder / table_file(name), table)
    golden = golden_requests(trained.sample, trained.encoder)
    requests = [request.encode(trained.encoder) for request in golden]
    write_golden(folder, golden, [torch_scores(trained, request) for request in requests])
    check_parity(folder, trained, manifest)
    return manifest


def _graphs(model: MultiTaskModel, manifest: Manifest) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "user", user_graph(model, manifest.features)
    yield "item", item_graph(model, manifest.features)
    yield "rank", rank_graph(model, manifest.features, manifest.tasks)
    yield "flat", flat_graph(model, manifest.features, manifest.tasks)


def check_parity(folder: Path, trained: Trained, manifest: Manifest) -> dict[int, float]:
    """The greatest disagreement at each of `PARITY_ROWS`, between torch, flat and user + item + rank.

    The latter run each request alone, and all of them, each of another user, in one run. Everything but torch
    reads what was written. One candidate of each request is no item as the table has it, so that its state is
    computed on the way.

    Raises:
        BundleError: one is above the tolerance, or a request is not encoded as the log is.
    """
    outputs, greatest = manifest.outputs(), {}
    encoder = _written_encoder(folder, manifest)
    cases = parity_cases(trained.sample, trained.encoder, PARITY_ROWS)
    for case in cases:
        _check_encoding(encoder, case)
    requests = [case.request.encode(encoder) for case in cases]
    flat = open_session(folder / "flat.onnx", EngineOptions(provider="cpu"))
    with closing(Engine(folder, manifest, encoder.items, EngineOptions(provider="cpu"))) as engine:
        together = engine.run(requests)
        for rows, encoded, at_once in zip(PARITY_ROWS, requests, together, strict=True):
            flat_scores = flat.run(outputs, flat_arrays(manifest, encoder, encoded))
            found = {
                "flat": dict(zip(outputs, flat_scores, strict=True)),
                "user, item and rank": engine.run([encoded])[0].scores,
                "user, item and rank, with other requests,": at_once.scores,
            }
            greatest[rows] = _agreed(found, torch_scores(trained, encoded), rows)
    return greatest


def _written_encoder(folder: Path, manifest: Manifest) -> Encoder:
    """The encoder that a service makes of the bundle."""
    schema = manifest.features
    tables = {name: read_table(folder / table_file(name), name) for name in ("user", "item", *schema.tables)}
    return Encoder(schema, read_vocabularies(folder / VOCABULARY_FILE, schema), tables)


def _check_encoding(encoder: Encoder, case: ParityCase) -> None:
    """Raise BundleError where the encoder makes of a request what the trainer's did not make of the log."""
    plain = case.request.model_copy(update={"inline": {}})
    requested = flat_columns(encoder, plain.encode(encoder))
    for side, ours, theirs in zip(Side, requested, case.logged, strict=True):
        layout = encoder.schema.layout(side)
        indices = ((block, ours.index, theirs.index) for block in layout.index)
        values = ((block, ours.value, theirs.value) for block in layout.value)
        for block, served, logged in (*indices, *values):
            if not np.array_equal(served[:, block.slots], logged[:, block.slots]):
                raise BundleError(f"{block.feature} of a request is not encoded as that of the log")


def _agreed(found: Mapping[str, Scores], expected: Scores, rows: int) -> float:
    """The greatest disagreement with torch. Raises BundleError where it is above the tolerance."""
    apart = {
        (graphs, task): disagreement(scores[task], expected[task])
        for graphs, scores in found.items()
        for task in expected
    }
    (graphs, task), greatest = max(apart.items(), key=lambda pair: pair[1])
    if greatest > TOLERANCE:
        raise BundleError(f"{graphs} and torch disagree: {task} is {greatest:.1e} apart at {rows} rows")
    return greatest


def torch_scores(trained: Trained, encoded: Encoded) -> Scores:
    """Task scores ``[N]`` of a request by the torch model, every feature per row."""
    sides = flat_columns(trained.encoder, encoded)
    with torch.inference_mode():
        return scores_of(trained.model(*arrays_of(sides)), trained.config.tasks)


def flat_columns(encoder: Encoder, encoded: Encoded) -> tuple[Columns, Columns, Columns]:
    """A request with every side per candidate, ``[N]``, as `flat.onnx` reads it."""
    items = encoder.items.take(encoded.item_row)
    if encoded.fresh is not None:
        items.put(encoded.fresh_at, encoded.fresh)
    return encoded.user.take(np.zeros(len(encoded), np.int64)), items, encoded.cross


def flat_arrays(manifest: Manifest, encoder: Encoder, encoded: Encoded) -> dict[str, NDArray[Any]]:
    """The inputs of `flat.onnx` for a request."""
    sides = dict(zip(Side, flat_columns(encoder, encoded), strict=True))
    arrays: dict[str, NDArray[Any]] = {}
    for side, columns in sides.items():
        arrays |= {f"{side}_index": columns.index, f"{side}_value": columns.value}
    return {name: arrays[name] for name in graph_inputs(manifest.features, *Side)}


def _manifest(trained: Trained, version: str) -> Manifest:
    return Manifest(
        version=version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        architecture=trained.config.model.name,
        tasks=tuple(task.spec() for task in trained.config.tasks),
        features=trained.encoder.schema,
        state=state_arrays(trained.model),
        user_state=user_state(trained.model),
        fusion=trained.config.fusion,
        files={},
        metrics=trained.metrics,
        training={**trained.config.model_dump(mode="json", exclude={"features"}), "seed": trained.seed},
        commit=commit_of(Path(__file__).parent),
        libraries=library_versions(),
    )
