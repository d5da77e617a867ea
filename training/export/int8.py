"""`rank.int8.onnx` and `item.int8.onnx`: ranges measured on samples; and do they rank as `rank.onnx` does?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from service.bundle.encoder import Encoder
from service.bundle.golden import disagreement, read_golden
from service.bundle.graphs import ITEM_INT8, RANK_INT8, item_graph, rank_graph
from service.bundle.manifest import Int8, Manifest, Precision, StateArray, graph_inputs
from service.bundle.rows import Encoded
from service.bundle.schema import Side
from service.engine import EngineOptions, open_session
from training.config import ExportConfig
from training.export.parity import RANKED, flat_arrays, groups_of, ranked_requests, written_encoder
from training.export.quantise import LEAST_WEIGHTS, Range, entering, int8_graph, showing
from training.export.small_state import (
    Part,
    parts_of,
    ranges_of,
    small_item_graph,
    small_rank_graph,
    small_state,
)
from training.metrics import kendall_tau, ndcg_at
from training.trained import Scores, Trained

CALIBRATED = 64
"""requests that the ranges are measured on, besides the golden ones; others than those that are ranked"""
CALIBRATED_ITEMS = 20_000
"""of the catalogue, spread over all of it, on which the ranges of their state are measured"""
FILL_ROWS = 256
"""items a run of `item.onnx`"""
MARGIN = 2.0
"""from the greatest disagreement that was measured to what the manifest allows"""
MOST_APART = 0.04
"""the greatest disagreement of scores that int8 is taken with, whatever the order"""

ON_CPU = EngineOptions(provider="cpu")

Arrays = dict[str, NDArray[Any]]


class Int8Refused(Exception):
    """The bundle does without int8; the message says why."""


def add_int8(folder: Path, trained: Trained, manifest: Manifest) -> Manifest:
    """Write `rank.int8.onnx` beside the other graphs; the manifest tells how near it comes to `rank.onnx`.

    It is made of the one that a CPU is fastest with. It reads the items' state in eight bits, as
    `item.int8.onnx` gives it; where only with more it comes near enough, the manifest says that, too.

    Raises:
        Int8Refused: no matmul is large enough, or it does not come near enough for the config.
    """
    source = folder / rank_graph(folder, "float32")
    graph = onnx.load(source, load_external_data=False)
    names = entering(graph)
    if not names:
        raise Int8Refused(f"no layer of rank.onnx has {LEAST_WEIGHTS:,} weights or more: int8 is no faster")
    parts = parts_of(graph, manifest.state, names)
    ranges = _ranges(folder, graph, names, parts, trained, manifest)
    in_int8 = int8_graph(graph, {name: ranges[name] for name in names}, folder)
    if parts:
        onnx.save_model(small_rank_graph(in_int8, parts, ranges), folder / RANK_INT8)
        item = onnx.load(folder / "item.onnx", load_external_data=False)
        onnx.save_model(small_item_graph(item, parts, ranges), folder / ITEM_INT8)
        try:
            found = prove_int8(folder, trained, manifest, small_state(manifest.state, parts))
            return manifest.model_copy(update={"int8": found})
        except Int8Refused as refused:
            (folder / ITEM_INT8).unlink()
            left_out = {"int8 state": str(refused)}
            manifest = manifest.model_copy(update={"left_out": manifest.left_out | left_out})
    onnx.save_model(in_int8, folder / RANK_INT8)
    return manifest.model_copy(update={"int8": prove_int8(folder, trained, manifest)})


def prove_int8(
    folder: Path, trained: Trained, manifest: Manifest, state: tuple[StateArray, ...] = ()
) -> Int8:
    """How near the scores and the order by `rank.int8.onnx` come to those by `rank.onnx`.

    Golden requests count for the scores alone; they have items twice, and those have no order.

    Args:
        folder: of the bundle.
        trained: what it is made of.
        manifest: of the bundle.
        state: that it reads, where that is not as `rank.onnx` reads it.

    Raises:
        Int8Refused: not near enough for the config.
    """
    found = Int8(tolerance=MOST_APART, kendall_tau=1.0, ndcg=1.0, state=state)
    manifest = manifest.model_copy(update={"int8": found})
    encoder = written_encoder(folder, manifest)
    ranked = ranked_requests(trained, encoder)
    requests = [*ranked, *_golden(folder, encoder)]
    scores = {each: _scores(folder, manifest, encoder, requests, each) for each in ("int8", "float32")}
    pairs = list(zip(scores["int8"], scores["float32"], strict=True))
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
        state=state,
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


def _ranges(
    folder: Path,
    graph: onnx.ModelProto,
    names: Sequence[str],
    parts: Sequence[Part],
    trained: Trained,
    manifest: Manifest,
) -> dict[str, Range]:
    """The least and the greatest number of arrays of the rank graph, over `CALIBRATED` requests.

    And of what is added to the parts; and of the parts themselves, over the catalogue.
    """
    encoder = written_encoder(folder, manifest)
    shown = list(dict.fromkeys([*names, *(part.sum.other for part in parts if part.sum)]))
    watched = folder / "watched.onnx"  # here, for its weights lie in a file beside it
    try:
        onnx.save_model(showing(graph, shown), watched)
        session = open_session(watched, ON_CPU)
    finally:
        watched.unlink(missing_ok=True)
    requests = ranked_requests(trained, encoder, RANKED + CALIBRATED)[RANKED:]
    ranges = dict.fromkeys(shown, (0.0, 0.0))
    for feeds in _rank_feeds(folder, manifest, encoder, [*requests, *_golden(folder, encoder)], "float32"):
        for name, array in zip(shown, session.run(shown, feeds), strict=True):
            least, greatest = ranges[name]
            ranges[name] = min(least, float(array.min())), max(greatest, float(array.max()))
    return ranges | (ranges_of(parts, _catalogue(folder, manifest, encoder)) if parts else {})


def _catalogue(folder: Path, manifest: Manifest, encoder: Encoder) -> Arrays:
    """The state of items of the catalogue, the unknown one included."""
    session, names = open_session(folder / "item.onnx", ON_CPU), [array.name for array in manifest.state]
    count = min(len(encoder.items), CALIBRATED_ITEMS)
    items = encoder.items.take(np.linspace(0, len(encoder.items) - 1, count).astype(np.int64))
    arrays = {"item_index": items.index, "item_value": items.value}
    pieces = []
    for start in range(0, count, FILL_ROWS):
        piece = slice(start, start + FILL_ROWS)
        inputs = {name: arrays[name][piece] for name in graph_inputs(manifest.features, Side.ITEM)}
        pieces.append(session.run(names, inputs))
    whole = (np.concatenate(column).astype(np.float32, copy=False) for column in zip(*pieces, strict=True))
    return dict(zip(names, whole, strict=True))


def _scores(
    folder: Path, manifest: Manifest, encoder: Encoder, requests: Sequence[Encoded], precision: Precision
) -> list[Scores]:
    """Task scores of each request, in a precision."""
    outputs, rank = manifest.outputs(), "rank.onnx" if precision == "float32" else RANK_INT8
    session = open_session(folder / rank, ON_CPU)
    return [
        dict(zip(outputs, session.run(outputs, feeds), strict=True))
        for feeds in _rank_feeds(folder, manifest, encoder, requests, precision)
    ]


def _rank_feeds(
    folder: Path, manifest: Manifest, encoder: Encoder, requests: Sequence[Encoded], precision: Precision
) -> Iterator[Arrays]:
    """What the rank graph of a precision gets for each request."""
    states = [array.name for array in manifest.state]
    user, item = (
        open_session(folder / file, ON_CPU) for file in ("user.onnx", item_graph(manifest, precision))
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
