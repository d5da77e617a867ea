"""`rank.int8.onnx`: its ranges, measured on sampled requests, and whether it ranks as `rank.onnx`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from service.bundle.encoder import Encoder
from service.bundle.golden import disagreement, read_golden
from service.bundle.graphs import RANK_CPU, RANK_INT8
from service.bundle.manifest import Int8, Manifest, graph_inputs
from service.bundle.rows import Encoded
from service.bundle.schema import Side
from service.engine import EngineOptions, open_session
from training.config import ExportConfig
from training.export.parity import RANKED, flat_arrays, groups_of, ranked_requests, written_encoder
from training.export.quantise import LEAST_WEIGHTS, Range, entering, int8_graph, showing
from training.metrics import kendall_tau, ndcg_at
from training.trained import Scores, Trained

CALIBRATED = 16
"""requests that the ranges are measured on, besides the golden ones; others than those that are ranked"""
MARGIN = 2.0
"""from the greatest disagreement that was measured to what the manifest allows"""
MOST_APART = 0.04
"""the greatest disagreement of scores that int8 is taken with, whatever the order"""

Arrays = dict[str, NDArray[Any]]


class Int8Refused(Exception):
    """The bundle does without int8; the message says why."""


def add_int8(folder: Path, trained: Trained, manifest: Manifest) -> Int8:
    """Write `rank.int8.onnx` beside the other graphs, and how near it comes to `rank.onnx`.

    It is made of the one that a CPU is fastest with.

    Raises:
        Int8Refused: no matmul is large enough, or it does not come near enough for the config.
    """
    source = folder / RANK_CPU if (folder / RANK_CPU).exists() else folder / "rank.onnx"
    graph = onnx.load(source, load_external_data=False)
    names = entering(graph)
    if not names:
        raise Int8Refused(f"no layer of rank.onnx has {LEAST_WEIGHTS:,} weights or more: int8 is no faster")
    watched = folder / "watched.onnx"  # here, for its weights lie in a file beside it
    try:
        onnx.save_model(showing(graph, names), watched)
        ranges = _ranges(watched, names, trained, manifest)
    finally:
        watched.unlink(missing_ok=True)
    onnx.save_model(int8_graph(graph, ranges, folder), folder / RANK_INT8)
    return prove_int8(folder, trained, manifest)


def prove_int8(folder: Path, trained: Trained, manifest: Manifest) -> Int8:
    """How near the scores and the order by `rank.int8.onnx` come to those by `rank.onnx`.

    Golden requests count for the scores alone; they have items twice, and those have no order.

    Raises:
        Int8Refused: not near enough for the config.
    """
    encoder = written_encoder(folder, manifest)
    ranked = ranked_requests(trained, encoder)
    pairs = _compared(folder, manifest, encoder, [*ranked, *_golden(folder, encoder)])
    apart = max(disagreement(ours[task], theirs[task]) for ours, theirs in pairs for task in theirs)
    if not apart <= MOST_APART:
        raise Int8Refused(f"scores are {apart:.1e} apart from those in float32, more than {MOST_APART}")
    groups = groups_of(ranked)
    by_int8, by_float32 = (
        np.concatenate([_fused(manifest, encoder, *each) for each in zip(ranked, side, strict=False)])
        for side in zip(*pairs, strict=True)
    )
    tau, ndcg = kendall_tau(by_int8, by_float32, groups), ndcg_at(10, by_int8, by_float32, groups)
    found = Int8(
        tolerance=manifest.tolerance + MARGIN * apart,
        kendall_tau=1.0 if tau is None else tau,
        ndcg=1.0 if ndcg is None else ndcg,
    )
    _check_order(found, trained.config.export)
    return found


def _check_order(found: Int8, least: ExportConfig) -> None:
    """Raise Int8Refused where candidates come in too different an order."""
    if found.kendall_tau < least.int8_least_tau:
        raise Int8Refused(f"Kendall's tau is {found.kendall_tau:.4f}, below {least.int8_least_tau}")
    if found.ndcg < least.int8_least_ndcg:
        raise Int8Refused(f"NDCG@10 is {found.ndcg:.4f}, below {least.int8_least_ndcg}")


def _golden(folder: Path, encoder: Encoder) -> list[Encoded]:
    return [request.encode(encoder) for request in read_golden(folder)[0]]


def _ranges(watched: Path, names: Sequence[str], trained: Trained, manifest: Manifest) -> dict[str, Range]:
    """The least and the greatest number of each array that a graph shows, over `CALIBRATED` requests."""
    folder = watched.parent
    encoder = written_encoder(folder, manifest)
    ranked = ranked_requests(trained, encoder, RANKED + CALIBRATED)[RANKED:]
    session = open_session(watched, EngineOptions(provider="cpu"))
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for feeds in _rank_feeds(folder, manifest, encoder, [*ranked, *_golden(folder, encoder)]):
        for name, array in zip(names, session.run(names, feeds), strict=True):
            least, greatest = ranges[name]
            ranges[name] = min(least, float(array.min())), max(greatest, float(array.max()))
    return ranges


def _compared(
    folder: Path, manifest: Manifest, encoder: Encoder, requests: Sequence[Encoded]
) -> list[tuple[Scores, Scores]]:
    """Task scores of each request by `rank.int8.onnx` and by `rank.onnx`, which get the same arrays."""
    outputs = manifest.outputs()
    ranks = [open_session(folder / file, EngineOptions(provider="cpu")) for file in (RANK_INT8, "rank.onnx")]
    compared: list[tuple[Scores, Scores]] = []
    for feeds in _rank_feeds(folder, manifest, encoder, requests):
        by_int8, by_float32 = (dict(zip(outputs, rank.run(outputs, feeds), strict=True)) for rank in ranks)
        compared.append((by_int8, by_float32))
    return compared


def _rank_feeds(
    folder: Path, manifest: Manifest, encoder: Encoder, requests: Sequence[Encoded]
) -> Iterator[Arrays]:
    """What `rank.onnx` gets for each request."""
    states = [array.name for array in manifest.state]
    user, item = (
        open_session(folder / file, EngineOptions(provider="cpu")) for file in ("user.onnx", "item.onnx")
    )
    for encoded in requests:
        arrays = flat_arrays(manifest, encoder, encoded)
        one, items, feeds = (
            {name: arrays[name] for name in graph_inputs(manifest.features, side)} for side in Side
        )
        one = {name: array[:1] for name, array in one.items()}
        feeds |= dict(zip(manifest.user_state, user.run(manifest.user_state, one), strict=True))
        feeds |= dict(zip(states, item.run(states, items), strict=True))
        yield feeds | {"item_row": np.arange(len(encoded), dtype=np.int32)}


def _fused(manifest: Manifest, encoder: Encoder, encoded: Encoded, scores: Scores) -> NDArray[np.float64]:
    """The fused score ``[N]`` of a request's task scores, by the bundle's own formula."""
    formula = manifest.fusion
    attributes = {name: encoder.attribute(name, encoded.item_row, {}) for name in formula.attributes}
    return formula.score(scores, attributes)
