"""Which precision a version is to be ranked in: is int8 right on this processor, and is it the faster?

It is tried before the version's state is filled, by an engine in each precision that has a small table only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from service.budget import enough
from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError
from service.bundle.golden import GoldenRequest
from service.bundle.graphs import RANK_INT8
from service.bundle.manifest import Manifest, Precision
from service.bundle.rows import Encoded
from service.engine import Engine, EngineOptions, on_cpu
from service.ledger import Ledger
from service.precision import PRECISION_ROWS, Chosen, kept, settle
from service.proof import check_golden
from service.state import row_bytes

FLOAT32, INT8 = Chosen(precision="float32"), Chosen(precision="int8")
"""without having measured"""

TABLE_ROWS = 8 * PRECISION_ROWS
"""of items' state, for an engine that is tried"""

_log = logging.getLogger(__name__)


def choose_precision(
    folder: Path,
    manifest: Manifest,
    encoder: Encoder,
    options: EngineOptions,
    wanted: Precision | Literal["auto"],
) -> Chosen:
    """What a version is to be ranked in. Blocks, where nobody on this host has measured yet.

    A graph that does not give the golden scores to its own tolerance, as where products of eight bits
    saturate, leaves float32.

    Raises:
        BundleError: int8 is asked for and cannot be had, or a graph cannot be read.
    """
    if wanted == "float32":
        return FLOAT32
    lacks = _lacking(folder, manifest, options)
    if lacks and wanted == "int8":
        raise BundleError(f"{manifest.version} {lacks}, and precision is int8; set it to auto")
    if lacks:
        return FLOAT32
    return INT8 if wanted == "int8" else kept(folder, manifest) or _tried(folder, manifest, encoder, options)


def _lacking(folder: Path, manifest: Manifest, options: EngineOptions) -> str:
    """Why there is no int8 for a version here; empty where there is."""
    if manifest.int8 is None or RANK_INT8 not in manifest.files:
        return f"has no {RANK_INT8}"
    return "" if on_cpu(folder, options) else "runs on a device"


def _tried(folder: Path, manifest: Manifest, encoder: Encoder, options: EngineOptions) -> Chosen:
    """The precision that a run takes less time in, if int8 gives the golden scores."""
    with ExitStack() as opened:

        def tried(precision: Precision) -> Engine:
            row = row_bytes(manifest.state_in(precision))
            ledger = Ledger(enough(len(encoder.items), row, options.max_rows, TABLE_ROWS))
            engine = Engine(folder, manifest, encoder.items, options, ledger, precision)
            return opened.enter_context(closing(engine))

        def run_of(engine: Engine) -> Callable[[], object]:
            batches = cycle(measured)
            return lambda: engine.run([next(batches)])

        engines: dict[Precision, Engine] = {"int8": tried("int8")}
        try:
            requests = check_golden(folder, manifest, encoder, engines["int8"])
        except BundleError as error:
            _log.warning("%s is ranked in float32: by %s, %s", manifest.version, RANK_INT8, error)
            return FLOAT32
        engines["float32"] = tried("float32")
        measured = _measured(encoder, requests[0])
        return settle(folder, manifest, {name: run_of(engine) for name, engine in engines.items()})


def _measured(encoder: Encoder, request: GoldenRequest) -> list[Encoded]:
    """A request with other items of the catalogue for candidates each time, as many as the table holds."""
    ids = cycle(encoder.tables["item"].keys[0][:TABLE_ROWS].tolist() or request.item_ids)
    pieces = (tuple(islice(ids, PRECISION_ROWS)) for _ in range(TABLE_ROWS // PRECISION_ROWS))
    requests = (request.model_copy(update={"item_ids": piece, "inline": {}}) for piece in pieces)
    return [each.encode(encoder) for each in requests]
