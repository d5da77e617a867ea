"""The large weights of a bundle's graphs, written once to `weights.bin` and referred to by all of them."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import onnx

WEIGHTS_FILE = "weights.bin"
LEAST_BYTES = 1 << 20
"""smaller weights stay inside their graph"""


def write_graphs(folder: Path, graphs: Iterable[tuple[str, onnx.ModelProto]]) -> None:
    """Write ``<name>.onnx`` for every graph; equal weights of `LEAST_BYTES` or more are stored once.

    A weight begins on a page, so that onnxruntime can map it into memory and processes share it. Graphs are
    taken one by one, and none is kept: who makes them on the way need not have all of them in memory.
    """
    places: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS_FILE).open("wb") as weights:
        for name, graph in graphs:
            _move_large(graph, weights, places)
            onnx.save_model(graph, folder / f"{name}.onnx")
            del graph  # or it would be here while the next one is made


def _move_large(graph: onnx.ModelProto, weights: BinaryIO, places: dict[bytes, tuple[int, int]]) -> None:
    """Leave of every large weight where it lies in the file: offset and length, by digest in `places`."""
    for tensor in graph.graph.initializer:
        content = _content(tensor)
        if len(content) < LEAST_BYTES:
            continue
        digest = hashlib.sha256(content).digest()
        if digest not in places:
            weights.seek(-(-weights.tell() // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)
            places[digest] = (weights.tell(), len(content))
            weights.write(content)
        _refer(tensor, *places[digest])


def _content(tensor: onnx.TensorProto) -> bytes:
    return tensor.raw_data if tensor.HasField("raw_data") else onnx.numpy_helper.to_array(tensor).tobytes()


def _refer(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    shape, kind, name = list(tensor.dims), tensor.data_type, tensor.name
    tensor.Clear()
    tensor.dims.extend(shape)
    tensor.data_type, tensor.name = kind, name
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
