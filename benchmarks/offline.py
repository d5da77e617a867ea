"""The scores that a version should give: its flat graph on columns encoded as a log's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.bundle.columns import Column, Value, column_of, strings
from service.bundle.encoder import Encoder
from service.bundle.golden import read_golden
from service.bundle.manifest import Manifest, graph_inputs
from service.bundle.schema import Side
from service.bundle.store import read_manifest
from service.engine import EngineOptions, open_session
from service.model import load_encoder


@dataclass(frozen=True, slots=True)
class Request:
    """A user, a context and candidates ``[N]``."""

    user_id: str
    context: Mapping[str, Value]
    item_ids: Sequence[str]

    def body(self, **more: Any) -> dict[str, Any]:
        """As it is sent."""
        sent = {"user_id": self.user_id, "context": self.context, "candidates": list(self.item_ids)}
        return sent | more


@dataclass(frozen=True, slots=True)
class Scores:
    """What a request gets, in the order of its candidates.

    Attributes:
        tasks: ``[N]`` float32 by task.
        fused: ``[N]`` float64.
    """

    tasks: Mapping[str, NDArray[np.float32]]
    fused: NDArray[np.float64]


class Offline:
    """A version as the trainer has it: encoder, flat graph, formula.

    Args:
        folder: of the bundle.

    Raises:
        BundleError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = read_manifest(folder)
        self.encoder: Encoder = load_encoder(folder, self.manifest)
        self._folder = folder

    def scores(self, request: Request, known: Mapping[str, Column] = MappingProxyType({})) -> Scores:
        """All scores of a request, every feature per row and encoded as an impression's.

        Columns ``[N]`` that are known, by path, beat the tables.
        """
        n = len(request.item_ids)
        given = {
            f"context.{name}": column_of([value] * n, f"context.{name}")
            for name, value in request.context.items()
        }
        users, items = strings([request.user_id] * n), strings(request.item_ids)
        sides = zip(Side, self.encoder.log(users, items, {**given, **known}, serving=True), strict=True)
        arrays: dict[str, NDArray[Any]] = {}
        for side, columns in sides:
            arrays |= {f"{side}_index": columns.index, f"{side}_value": columns.value}
        feeds = {name: arrays[name] for name in graph_inputs(self.manifest.features, *Side)}
        outputs = self.manifest.outputs()
        tasks = dict(zip(outputs, self._flat.run(list(outputs), feeds), strict=True))
        return Scores(tasks, self.fused(tasks, request.item_ids))

    def fused(self, tasks: Mapping[str, NDArray[Any]], item_ids: Sequence[str]) -> NDArray[np.float64]:
        """The bundle's own formula of any task scores ``[N]``."""
        formula, rows = self.manifest.fusion, self.encoder.item_rows(item_ids)
        attributes = {name: self.encoder.attribute(name, rows, {}) for name in formula.attributes}
        return formula.score(tasks, attributes)

    def requests(self, count: int, candidates: int, seed: int = 0) -> list[Request]:
        """Random users and candidates of the bundle's tables, in the contexts of its golden requests."""
        random = np.random.default_rng(seed)
        users, items = (self.encoder.tables[name].keys[0] for name in ("user", "item"))
        contexts = [golden.context for golden in read_golden(self._folder)[0] if golden.context]
        return [
            Request(
                str(random.choice(users)),
                contexts[at % len(contexts)] if contexts else {},
                random.choice(items, candidates, replace=candidates > len(items)).tolist(),
            )
            for at in range(count)
        ]

    @cached_property
    def _flat(self) -> ort.InferenceSession:
        return open_session(self._folder / "flat.onnx", EngineOptions(provider="cpu", threads=1))


def answered(answer: Mapping[str, Any], item_ids: Sequence[str]) -> Scores:
    """The scores of an answer, in the order of its candidates, none of which came twice.

    Raises:
        KeyError: a candidate is missing.
    """
    found = {item["id"]: item for item in answer["items"]}
    ordered = [found[item_id] for item_id in item_ids]
    names = ordered[0].get("tasks") or {}
    tasks = {name: np.array([item["tasks"][name] for item in ordered], np.float32) for name in names}
    return Scores(tasks, np.array([item["score"] for item in ordered], np.float64))
