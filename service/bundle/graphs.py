"""What the graphs of a bundle take and give, by its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest, graph_inputs
from service.bundle.schema import Side

Arrays = Mapping[str, tuple[str, tuple[int, ...]]]
"""name -> dtype and shape, an open axis written as 0"""

RANK_CPU = "rank.cpu.onnx"
"""`rank.onnx` as a CPU is fastest with it; a bundle need not have it"""
RANK_INT8 = "rank.int8.onnx"
"""takes and gives what `rank.onnx` does; a bundle need not have it"""

TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int32": "tensor(int32)"}
"""ONNX's names of dtypes"""


def stated_arrays(manifest: Manifest) -> dict[str, tuple[Arrays, Arrays]]:
    """Inputs and outputs of the graphs that serve.

    Raises:
        BundleError: the manifest contradicts itself.
    """
    if len(manifest.user_state) != len(manifest.state):
        raise BundleError(
            "state and user_state of the manifest differ in length; a projection has one of each"
        )
    user, item, cross = (
        {name: (dtype, (0, width)) for name, (dtype, width) in graph_inputs(manifest.features, side).items()}
        for side in Side
    )
    items: Arrays = {array.name: (array.dtype, array.shape) for array in manifest.state}
    users: Arrays = {
        name: ("float32", array.shape)
        for name, array in zip(manifest.user_state, manifest.state, strict=True)
    }
    scores: Arrays = {task: ("float32", (0,)) for task in manifest.outputs()}
    candidates: Arrays = {**cross, "item_row": ("int32", (0,)), **users, **items}
    ranks = dict.fromkeys(("rank.onnx", RANK_CPU, RANK_INT8), (candidates, scores))
    return {"user.onnx": (user, users), "item.onnx": (item, items), **ranks}


def check_arrays(what: str, found: Sequence[Any], stated: Arrays) -> None:
    """Raise BundleError unless a graph's inputs or outputs are as stated; an open axis fits any length.

    Args:
        what: they are, for the error.
        found: by a runtime: things with a name, a type by ONNX's name, and a shape.
        stated: by the manifest.
    """
    names = {array.name for array in found}
    if names != stated.keys():
        raise BundleError(f"{what} are {sorted(names)}; the manifest states {sorted(stated)}")
    for array in found:
        dtype, shape = stated[array.name]
        has = [axis if isinstance(axis, int) else 0 for axis in array.shape]
        same = len(has) == len(shape) and all(a == b or not a * b for a, b in zip(has, shape, strict=True))
        if not same or array.type != TYPES[dtype]:
            is_, wants = f"{array.type} {has}", f"{dtype} {list(shape)}"
            raise BundleError(f"{what}: {array.name} is {is_}; the manifest states {wants}")
