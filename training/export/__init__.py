"""A trained model -> a verified bundle: graphs, tables, vocabularies, golden requests, manifest.

Nothing is written that does not agree: torch, `flat.onnx`, and `user` + `item` + `rank` through the service's
own engine must give the same scores, or there is no bundle.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import onnx

from service.bundle.golden import write_golden
from service.bundle.graphs import RANK_CPU, RANK_INT8
from service.bundle.manifest import HALF_TOLERANCE, TOLERANCE, Manifest
from service.bundle.snapshot import VOCABULARY_FILE, table_file, write_table, write_vocabularies
from service.bundle.store import write
from training.export.by_expert import by_expert
from training.export.int8 import Int8Refused, add_int8
from training.export.parity import check_parity
from training.golden import golden_requests
from training.graphs import flat_graph, item_graph, rank_graph, state_arrays, user_graph, user_state
from training.provenance import commit_of, library_versions
from training.trained import Trained, torch_scores
from training.weights import write_graphs


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
    trained.model.eval()
    write_vocabularies(folder / VOCABULARY_FILE, trained.encoder.vocabularies)
    for name, table in trained.encoder.tables.items():
        write_table(folder / table_file(name), table)
    golden = golden_requests(trained.sample, trained.encoder)
    requests = [request.encode(trained.encoder) for request in golden]
    write_golden(folder, golden, [torch_scores(trained, request) for request in requests])
    write_graphs(folder, _graphs(trained, manifest))
    check_parity(folder, trained, manifest)
    return _with_int8(folder, trained, manifest) if trained.config.export.int8 else manifest


def _graphs(trained: Trained, manifest: Manifest) -> Iterator[tuple[str, onnx.ModelProto]]:
    model, features, state = trained.model, manifest.features, trained.config.export.state
    yield "user", user_graph(model, features)
    yield "item", item_graph(model, features, state)
    rank = rank_graph(model, features, manifest.tasks, state)
    if (parted := by_expert(rank)) is not None:
        yield RANK_CPU.removesuffix(".onnx"), parted
    yield "rank", rank
    del rank, parted
    yield "flat", flat_graph(model, features, manifest.tasks)


def _with_int8(folder: Path, trained: Trained, manifest: Manifest) -> Manifest:
    """The manifest with what became of the graph in int8."""
    try:
        return add_int8(folder, trained, manifest)
    except Int8Refused as refused:
        (folder / RANK_INT8).unlink(missing_ok=True)
        return manifest.model_copy(update={"left_out": {"int8": str(refused)}})


def _manifest(trained: Trained, version: str) -> Manifest:
    state = trained.config.export.state
    return Manifest(
        version=version,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        architecture=trained.config.model.name,
        tasks=tuple(task.spec() for task in trained.config.tasks),
        features=trained.encoder.schema,
        state=state_arrays(trained.model, state),
        user_state=user_state(trained.model),
        fusion=trained.config.fusion,
        files={},
        tolerance=HALF_TOLERANCE if state == "float16" else TOLERANCE,
        metrics=trained.metrics,
        training={**trained.config.model_dump(mode="json", exclude={"features"}), "seed": trained.seed},
        commit=commit_of(Path(__file__).parent),
        libraries=library_versions(),
    )
