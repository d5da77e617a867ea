"""A tiny but whole bundle, made without torch: every kind of feature, and an MMoE of random weights.

`write_tiny` writes it; the `Tiny` it gives back knows the true scores, computed by numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle import store
from service.bundle.encoder import Encoder
from service.bundle.fusion import FusionFormula
from service.bundle.golden import write_golden
from service.bundle.manifest import TOLERANCE, Manifest, StateArray, TaskSpec
from service.bundle.rows import Encoded
from service.bundle.schema import FeatureSchema
from service.bundle.snapshot import VOCABULARY_FILE, table_file, write_table, write_vocabularies
from tests.tiny_features import tiny_encoder, tiny_requests, tiny_tables, tiny_vocabularies
from tests.tiny_graphs import EXPERTS, HIDDEN, Weights, predict, write_graphs

TASKS = (
    TaskSpec(name="click", kind="binary", event="click"),
    TaskSpec(name="like", kind="binary", event="like", given="click"),
    TaskSpec(name="watch", kind="regression", event="watch", transform="log1p", unit="s"),
)
FUSION = FusionFormula.parse(
    {
        "groups": [
            {
                "factors": [
                    {"task": "click"},
                    {"task": "watch", "weight": 0.5, "offset": 1.0},
                    {"item": "length", "transform": "log1p", "weight": 0.3, "default": 15.0},
                ]
            },
            {"weight": 0.2, "factors": [{"task": "click"}, {"task": "like"}]},
        ]
    }
)


@dataclass(frozen=True, slots=True)
class Tiny:
    """A bundle, and what it was made of."""

    folder: Path
    manifest: Manifest
    encoder: Encoder
    weights: Weights

    def predict(self, encoded: Encoded) -> dict[str, NDArray[np.float32]]:
        """True task scores ``[N]`` of a request."""
        items = self.encoder.items.take(encoded.item_row)
        if encoded.fresh is not None:
            items.put(encoded.fresh_at, encoded.fresh)
        return predict(self.encoder.schema, TASKS, self.weights, (encoded.user, items, encoded.cross))


def write_tiny(
    models: Path,
    version: str,
    *,
    seed: int = 0,
    leave_out: Collection[str] = (),
    alter: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    golden_error: float = 0.0,
    half: bool = False,
) -> Tiny:
    """Write a bundle.

    Args:
        models: folder of all versions.
        version: name of the new one.
        seed: of the weights; users, items and requests are always the same.
        leave_out: features that this version does without.
        alter: gives what the manifest claims instead of the truth.
        golden_error: how much too high the golden scores are.
        half: keep the items' state in float16.
    """
    encoder = tiny_encoder(leave_out)
    weights = Weights.draw(encoder.schema, len(TASKS), seed)
    tiny = Tiny(models / version, _manifest(version, encoder.schema, half), encoder, weights)

    def fill(folder: Path) -> Manifest:
        write_graphs(folder, encoder.schema, TASKS, weights, half=half)
        write_vocabularies(folder / VOCABULARY_FILE, tiny_vocabularies(tiny_tables()))
        for name, table in encoder.tables.items():
            write_table(folder / table_file(name), table)
        requests = tiny_requests()
        scores = [tiny.predict(request.encode(encoder)) for request in requests]
        shifted = [{task: score + np.float32(golden_error) for task, score in by.items()} for by in scores]
        write_golden(folder, requests, shifted)
        return alter(tiny.manifest)

    store.write(models, version, fill)
    return tiny


def _manifest(version: str, features: FeatureSchema, half: bool) -> Manifest:
    widths = {"item_experts": EXPERTS * HIDDEN, "item_gates": len(TASKS) * EXPERTS}
    return Manifest(
        version=version,
        created="2026-01-01T00:00:00Z",
        architecture="mmoe",
        tasks=TASKS,
        features=features,
        state=tuple(
            StateArray(name=name, dtype="float16" if half else "float32", shape=(0, width), item_axis=0)
            for name, width in widths.items()
        ),
        user_state=("user_experts", "user_gates"),
        fusion=FUSION,
        files={},
        tolerance=2e-3 if half else TOLERANCE,
    )
