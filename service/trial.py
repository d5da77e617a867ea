"""Which precision a version is to be ranked in: is int8 right on this processor, and is it the faster?

It is tried before the version's state is filled, by an engine in each precision that has a small table only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from service.budget import KEPT_BYTES, KNOWN_BYTES, with_reserve
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
    if wanted == "float32" or (wanted == "auto" and manifest.int8 is None):
        return FLOAT32
    there = manifest.int8 is not None and on_cpu(folder, options)
    if not there and wanted == "int8":
        lacks = "runs on a device" if manifest.int8 else f"has no {RANK_INT8}"
        raise BundleError(f"{manifest.version} {lacks}, and precision is int8; set it to auto")
    if not there or wanted == "int8":
        return INT8 if there else FLOAT32
    return kept(folder, manifest) or _tried(folder, manifest, encoder, options)


def _tried(folder: Path, manifest: Manifest, encoder: Encoder, options: EngineOptions) -> Chosen:
    """The precision that a run takes less time in, if int8 gives the golden scores."""
    with ExitStack() as opened:

        def tried(precision: Precision) -> Engine:
            row = row_bytes(manifest.state_in(precision)) + KEPT_BYTES
            ledger = Ledger(with_reserve(KNOWN_BYTES * len(encoder.items) + TABLE_ROWS * row))
            engine = Engine(folder, manifest, encoder.items, options, ledger, precision)
            return opened.enter_context(closing(engine))

        engines: dict[Precision, Engine] = {"int8": tried("int8")}
        try:
            requests = check_golden(folder, manifest, encoder, engines["int8"])
        except BundleError as error:
            _log.warning("%s is ranked in float32: by %s, %s", manifest.version, RANK_INT8, error)
            return FLOAT32
        engines["float32"] = tried("float32")
        batch = [_measured(encoder, requests)]
        return settle(folder, manifest, {name: partial(each.run, batch) for name, each in engines.items()})


def _measured(encoder: Encoder, requests: Sequence[GoldenRequest]) -> Encoded:
    """The first of the requests, with `PRECISION_ROWS` items of the catalogue for candidates."""
    ids = encoder.tables["item"].keys[0][:PRECISION_ROWS].tolist() or requests[0].item_ids
    rows = tuple(islice(cycle(ids), PRECISION_ROWS))
    return requests[0].model_copy(update={"item_ids": rows, "inline": {}}).encode(encoder)
