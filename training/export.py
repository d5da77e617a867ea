"""A trained model -> a verified bundle: graphs, tables, vocabularies, golden requests, manifest.

Nothing is written that does not agree: torch, `flat.onnx`, and `user` + `item` + `rank` through the service's
own engine must give the same scores, or there is no bundle.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.columns import Table, Value
from service.bundle.encoder import Encoded, Encoder
from service.bundle.errors import BundleError
from service.bundle.golden import GoldenRequest, disagreement, write_golden
from service.bundle.manifest import TOLERANCE, Manifest, Metrics, graph_inputs
from service.bundle.rows import Columns
from service.bundle.schema import Side
from service.bundle.snapshot import VOCABULARY_FILE, table_file, write_table, write_vocabularies
from service.bundle.store import write
from service.engine import Engine, EngineOptions, open_session
from training.config import TrainingConfig
from training.evaluate import scores_of
from training.examples import arrays_of
from training.graphs import flat_graph, item_graph, rank_graph, state_arrays, user_graph
from training.impressions import Impressions
from training.models import MultiTaskModel
from training.weights import write_graphs

PARITY_ROWS = (1, 7, 1000)
GOLDEN_REQUESTS = 4
GOLDEN_CANDIDATES = 24
LIBRARIES = ("torch", "onnx", "onnxscript", "numpy")

Scores = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made.

    Attributes:
        model: with its best weights.
        encoder: fitted to the training part.
        config: of the run.
        metrics: offline, by part of the split.
        sample: impressions to take golden and parity requests from.
    """

    model: MultiTaskModel
    encoder: Encoder
    config: TrainingConfig
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
    model, features, tasks = trained.model.eval(), manifest.features, manifest.tasks
    graphs = {
        "user": user_graph(model, features),
        "item": item_graph(model, features),
        "rank": rank_graph(model, features, tasks),
        "flat": flat_graph(model, features, tasks),
    }
    write_graphs(folder, graphs)
    write_vocabularies(folder / VOCABULARY_FILE, trained.encoder.vocabularies)
    for name, table in trained.encoder.tables.items():
        write_table(folder / table_file(name), table)
    golden = golden_requests(trained.sample, trained.encoder.tables["item"])
    requests = [request.encode(trained.encoder) for request in golden]
    write_golden(folder, golden, [torch_scores(trained, request) for request in requests])
    check_parity(folder, trained, manifest)
    return manifest


def check_parity(folder: Path, trained: Trained, manifest: Manifest) -> dict[int, float]:
    """The greatest disagreement at each of `PARITY_ROWS`, between torch, flat and user + item + rank.

    The latter run each request alone, and all of them in one run. One candidate of each is no item as the
    table has it, so that its state is computed on the way.

    Raises:
        BundleError: one is above the tolerance.
    """
    outputs, greatest = manifest.outputs(), {}
    requests = [_parity_request(trained, rows).encode(trained.encoder) for rows in PARITY_ROWS]
    flat = open_session(folder / "flat.onnx", EngineOptions(provider="cpu"))
    with closing(Engine(folder, manifest, trained.encoder.items, EngineOptions(provider="cpu"))) as engine:
        together = engine.run(requests)
        for rows, encoded, at_once in zip(PARITY_ROWS, requests, together, strict=True):
            flat_scores = flat.run(outputs, flat_arrays(manifest, trained.encoder, encoded))
            found = {
                "flat": dict(zip(outputs, flat_scores, strict=True)),
                "user, item and rank": engine.run([encoded])[0].scores,
                "user, item and rank, with other requests,": at_once.scores,
            }
            greatest[rows] = _agreed(found, torch_scores(trained, encoded), rows)
    return greatest


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


def golden_requests(sample: Impressions, items: Table) -> list[GoldenRequest]:
    """Requests drawn from logged impressions.

    With one item twice, an unknown user, an unknown item, and one that comes with another item's fields.
    """
    requests = []
    for at in np.linspace(0, len(sample) - 1, GOLDEN_REQUESTS).astype(int).tolist():
        ids = np.roll(sample.item_id, -at)[:GOLDEN_CANDIDATES].tolist()
        requests.append(_request(sample, at, [*ids, ids[0]]))
    ids = (sample.item_id[0], "an item nobody knows", sample.item_id[-1])
    return [*requests, GoldenRequest(user_id=None, item_ids=ids, inline={0: _fields(items, ids[-1])})]


def _parity_request(trained: Trained, rows: int) -> GoldenRequest:
    known = np.unique(trained.sample.item_id.astype(str))
    request = _request(trained.sample, 0, np.resize(known, rows).tolist())
    fields = _fields(trained.encoder.tables["item"], known[-1])
    return request.model_copy(update={"inline": {0: fields}}) if rows > 1 else request


def _request(sample: Impressions, at: int, item_ids: Sequence[str]) -> GoldenRequest:
    """The given candidates for the user and in the context of an impression."""
    context = {name: column.at(at) for name, column in sample.context.items()}
    return GoldenRequest(user_id=sample.user_id[at], context=context, item_ids=tuple(item_ids))


def _fields(items: Table, item_id: str) -> dict[str, Value]:
    """What the table holds of an item; nothing where it does not know it."""
    row = int(items.rows([item_id])[0])
    return {name: column.at(row - 1) for name, column in items.columns.items()} if row else {}


def _manifest(trained: Trained, version: str) -> Manifest:
    state = state_arrays(trained.model)
    return Manifest(
        version=version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        architecture=trained.config.model.name,
        tasks=tuple(task.spec() for task in trained.config.tasks),
        features=trained.encoder.schema,
        state=state,
        user_state=tuple(array.name.replace("item_", "user_", 1) for array in state),
        fusion=trained.config.fusion,
        files={},
        metrics=trained.metrics,
        training=trained.config.model_dump(mode="json", exclude={"features"}),
        commit=_commit(),
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )


def _commit() -> str | None:
    """The commit that the code stands at; None outside a repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
