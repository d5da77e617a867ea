"""Do all graphs that were written give torch's scores?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.golden import disagreement
from service.bundle.graphs import RANK_CPU
from service.bundle.manifest import TOLERANCE, Manifest, graph_inputs
from service.bundle.rows import Encoded
from service.bundle.schema import Side
from service.bundle.snapshot import VOCABULARY_FILE, read_table, read_vocabularies, table_file
from service.engine import Engine, EngineOptions, open_session
from training.golden import ParityCase, parity_cases
from training.metrics import kendall_tau
from training.trained import Scores, Trained, flat_columns, torch_scores

PARITY_ROWS = (1, 7, 1000)

RANKED = 8
"""requests, each of another user, whose order is compared"""
RANKED_ROWS = 200
"""candidates of each"""
LEAST_TAU = 0.999
"""Kendall's, between the order by float16 state and torch's"""


def check_parity(folder: Path, trained: Trained, manifest: Manifest) -> dict[int, float]:
    """The greatest disagreement at each of `PARITY_ROWS`, between torch, flat and user + item + rank.

    The latter run each request alone, and all of them, each of another user, in one run; by `rank.onnx`, and
    by `rank.cpu.onnx` where there is one. Everything but torch reads what was written. One candidate of each
    request is no item as the table has it, so that its state is computed on the way.

    Raises:
        BundleError: one is above its tolerance, float16 state changes the order of candidates, or a request
            is not encoded as the log is.
    """
    outputs, greatest = manifest.outputs(), {}
    encoder = written_encoder(folder, manifest)
    cases = parity_cases(trained.sample, trained.encoder, PARITY_ROWS)
    for case in cases:
        _check_encoding(encoder, case)
    requests = [case.request.encode(encoder) for case in cases]
    flat = open_session(folder / "flat.onnx", EngineOptions(provider="cpu"))
    with closing(Engine(folder, manifest, encoder.items, EngineOptions(provider="cpu"))) as engine:
        ranked = _ranked(folder, engine, requests)
        for at, (rows, encoded) in enumerate(zip(PARITY_ROWS, requests, strict=True)):
            flat_scores = flat.run(outputs, flat_arrays(manifest, encoder, encoded))
            expected = torch_scores(trained, encoded)
            found = {graphs: scores[at] for graphs, scores in ranked.items()}
            whole = {"flat": dict(zip(outputs, flat_scores, strict=True))}
            apart = (_agreed(whole, expected, rows), _agreed(found, expected, rows, manifest.tolerance))
            greatest[rows] = max(apart)
        if any(array.dtype == "float16" for array in manifest.state):
            _check_order(engine, trained, encoder)
    return greatest


def _ranked(folder: Path, engine: Engine, requests: Sequence[Encoded]) -> dict[str, list[Scores]]:
    """Scores of every request, alone and together, by each graph that ranks; the engine has its own again."""
    ranked: dict[str, list[Scores]] = {}
    for graph in filter(lambda name: (folder / name).exists(), ("rank.onnx", RANK_CPU)):
        own = engine.rank_by(engine.opened(folder / graph))
        alone = [engine.run([encoded])[0].scores for encoded in requests]
        ranked[f"user, item and {graph}"] = alone
        together = [each.scores for each in engine.run(requests)]
        ranked[f"user, item and {graph}, with other requests,"] = together
        engine.rank_by(own)
    return ranked


def ranked_requests(trained: Trained, encoder: Encoder, count: int = RANKED) -> list[Encoded]:
    """So many requests, always the same; none has an item twice, for copies of one have no order."""
    rows = min(RANKED_ROWS, len(np.unique(trained.sample.item_id.astype(str))))
    cases = parity_cases(trained.sample, trained.encoder, [rows] * count)
    return [case.request.model_copy(update={"inline": {}}).encode(encoder) for case in cases]


def groups_of(requests: Iterable[Encoded]) -> NDArray[np.intp]:
    """The number of its request, for every candidate of all."""
    return np.concatenate([np.full(len(encoded), at) for at, encoded in enumerate(requests)])


def written_encoder(folder: Path, manifest: Manifest) -> Encoder:
    """The encoder that a service makes of the bundle."""
    schema = manifest.features
    tables = {name: read_table(folder / table_file(name), name) for name in ("user", "item", *schema.tables)}
    return Encoder(schema, read_vocabularies(folder / VOCABULARY_FILE, schema), tables)


def flat_arrays(manifest: Manifest, encoder: Encoder, encoded: Encoded) -> dict[str, NDArray[Any]]:
    """The inputs of `flat.onnx` for a request."""
    sides = dict(zip(Side, flat_columns(encoder, encoded), strict=True))
    arrays: dict[str, NDArray[Any]] = {}
    for side, columns in sides.items():
        arrays |= {f"{side}_index": columns.index, f"{side}_value": columns.value}
    return {name: arrays[name] for name in graph_inputs(manifest.features, *Side)}


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


def _agreed(found: Mapping[str, Scores], expected: Scores, rows: int, tolerance: float = TOLERANCE) -> float:
    """The greatest disagreement with torch. Raises BundleError where it is above the tolerance."""
    apart = {
        (graphs, task): disagreement(scores[task], expected[task])
        for graphs, scores in found.items()
        for task in expected
    }
    (graphs, task), greatest = max(apart.items(), key=lambda pair: pair[1])
    if greatest > tolerance:
        raise BundleError(f"{graphs} and torch disagree: {task} is {greatest:.1e} apart at {rows} rows")
    return greatest


def _check_order(engine: Engine, trained: Trained, encoder: Encoder) -> None:
    """Raise BundleError where the state's float16 changes the order that a task's scores give candidates."""
    requests = ranked_requests(trained, encoder)
    found = [engine.run([encoded])[0].scores for encoded in requests]
    expected = [torch_scores(trained, encoded) for encoded in requests]
    for task in expected[0]:
        ours, theirs = (np.concatenate([scores[task] for scores in each]) for each in (found, expected))
        tau = kendall_tau(ours, theirs, groups_of(requests))
        if tau is not None and not tau >= LEAST_TAU:
            raise BundleError(
                f"float16 state changes the order of candidates: Kendall's tau of {task} is {tau:.4f}, "
                f"below {LEAST_TAU}; set export.state to float32"
            )
