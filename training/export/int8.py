"""`rank.int8.onnx`: `rank.onnx` with its large weights in int8, and whether it ranks as that does.

What enters such a layer is brought to eight bits, too, by its own range in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from service.bundle.encoder import Encoder
from service.bundle.golden import disagreement, read_golden
from service.bundle.graphs import RANK_INT8
from service.bundle.manifest import Int8, Manifest, graph_inputs
from service.bundle.rows import Encoded
from service.bundle.schema import Side
from service.engine import EngineOptions, open_session
from training.config import ExportConfig
from training.export.parity import flat_arrays, groups_of, ranked_requests, written_encoder
from training.graphs import bare
from training.metrics import kendall_tau, ndcg_at
from training.trained import Scores, Trained

LEAST_WEIGHTS = 1 << 14
"""of a matmul in int8: a smaller one gains less than it costs to bring to eight bits what enters it"""
MARGIN = 2.0
"""from the greatest disagreement that was measured to the tolerance that the manifest states"""
MOST_APART = 0.05
"""the greatest disagreement of scores that int8 is taken with, whatever the order"""


class Int8Refused(Exception):
    """The bundle does without int8; the message says why."""


def int8_graph(rank: onnx.ModelProto) -> onnx.ModelProto:
    """`rank.onnx` with every matmul of `LEAST_WEIGHTS` or more in int8, by onnxruntime's quantizer.

    A tensor of weights has one scale for all its experts and units: of a batched matmul the runtime takes no
    scales a unit as the quantizer writes them.

    Raises:
        Int8Refused: no matmul is that large.
    """
    shapes = {tensor.name: tensor.dims for tensor in rank.graph.initializer}
    large = [
        node.name
        for node in rank.graph.node
        if node.op_type == "MatMul" and np.prod(shapes.get(node.input[1], [0])[-2:]) >= LEAST_WEIGHTS
    ]
    if not large:
        raise Int8Refused(f"no layer of rank.onnx has {LEAST_WEIGHTS:,} weights or more: int8 is no faster")
    prepared = onnx.ModelProto()
    prepared.CopyFrom(rank)
    add_pre_process_metadata(prepared)  # the exporter has done what the quantizer would advise
    with TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(prepared, path, nodes_to_quantize=large, weight_type=QuantType.QInt8)
        return bare(onnx.load(path))


def prove_int8(folder: Path, trained: Trained, manifest: Manifest) -> Int8:
    """How near the scores and the order by `rank.int8.onnx` come to those by `rank.onnx`.

    Golden requests count for the scores alone; they have items twice, and those have no order.

    Raises:
        Int8Refused: not near enough for the config.
    """
    encoder = written_encoder(folder, manifest)
    ranked = ranked_requests(trained, encoder)
    golden = [request.encode(encoder) for request in read_golden(folder)[0]]
    pairs = _compared(folder, manifest, encoder, [*ranked, *golden])
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
        tolerance=max(manifest.tolerance, MARGIN * apart),
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


def _compared(
    folder: Path, manifest: Manifest, encoder: Encoder, requests: Sequence[Encoded]
) -> list[tuple[Scores, Scores]]:
    """Task scores of each request by `rank.int8.onnx` and by `rank.onnx`, which get the same arrays."""
    outputs, states = manifest.outputs(), [array.name for array in manifest.state]
    user, item, *ranks = (
        open_session(folder / file, EngineOptions(provider="cpu"))
        for file in ("user.onnx", "item.onnx", RANK_INT8, "rank.onnx")
    )
    compared: list[tuple[Scores, Scores]] = []
    for encoded in requests:
        arrays = flat_arrays(manifest, encoder, encoded)
        one, items, feeds = (
            {name: arrays[name] for name in graph_inputs(manifest.features, side)} for side in Side
        )
        one = {name: array[:1] for name, array in one.items()}
        feeds |= dict(zip(manifest.user_state, user.run(manifest.user_state, one), strict=True))
        feeds |= dict(zip(states, item.run(states, items), strict=True))
        feeds |= {"item_row": np.arange(len(encoded), dtype=np.int32)}
        by_int8, by_float32 = (dict(zip(outputs, rank.run(outputs, feeds), strict=True)) for rank in ranks)
        compared.append((by_int8, by_float32))
    return compared


def _fused(manifest: Manifest, encoder: Encoder, encoded: Encoded, scores: Scores) -> NDArray[np.float64]:
    """The fused score ``[N]`` of a request's task scores, by the bundle's own formula."""
    formula = manifest.fusion
    attributes = {name: encoder.attribute(name, encoded.item_row, {}) for name in formula.attributes}
    return formula.score(scores, attributes)
