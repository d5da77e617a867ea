"""What the graphs of a bundle take and give, by its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest, Precision, StateArray, graph_inputs
from service.bundle.schema import Side

Arrays = Mapping[str, tuple[str, tuple[int, ...]]]
"""name -> dtype and shape, an open axis written as 0"""

RANK_CPU = "rank.cpu.onnx"
"""`rank.onnx` as a CPU is fastest with it; a bundle need not have it"""
RANK_INT8 = "rank.int8.onnx"
"""gives what `rank.onnx` does, and takes it, but for the items' state; a bundle need not have it"""
ITEM_INT8 = "item.int8.onnx"
"""gives the items' state in eight bits; a bundle need not have it, though it have the other"""

TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int32": "tensor(int32)",
    "uint8": "tensor(uint8)",
}
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
    items, small = _arrays(manifest.state), _arrays(manifest.state_in("int8"))
    users: Arrays = {
        name: ("float32", array.shape)
        for name, array in zip(manifest.user_state, manifest.state, strict=True)
    }
    scores: Arrays = {task: ("float32", (0,)) for task in manifest.outputs()}
    candidates: Arrays = {**cross, "item_row": ("int32", (0,)), **users}
    ranks = dict.fromkeys(("rank.onnx", RANK_CPU), ({**candidates, **items}, scores))
    in_int8: dict[str, tuple[Arrays, Arrays]] = {
        ITEM_INT8: (item, small),
        RANK_INT8: ({**candidates, **small}, scores),
    }
    return {"user.onnx": (user, users), "item.onnx": (item, items), **ranks, **in_int8}


def item_graph(manifest: Manifest, precision: Precision) -> str:
    """The file of the graph that gives the items' state as it is read in a precision."""
    return "item.onnx" if manifest.state_in(precision) == manifest.state else ITEM_INT8


def rank_graph(folder: Path, precision: Precision, *, on_cpu: bool = True) -> str:
    """The file of the graph that a bundle's folder has for a precision, and for a CPU where it has one."""
    if precision == "int8":
        return RANK_INT8
    return RANK_CPU if on_cpu and (folder / RANK_CPU).exists() else "rank.onnx"


def _arrays(state: Sequence[StateArray]) -> Arrays:
    return {array.name: (array.dtype, array.shape) for array in state}


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
