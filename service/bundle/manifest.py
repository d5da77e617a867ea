"""What a bundle claims about itself: `manifest.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from service.bundle.fusion import FusionFormula
from service.bundle.kinds import Name
from service.bundle.schema import FeatureSchema, Side

Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Metrics = dict[str, float | int | None]
"""by name; null where a metric does not exist, as an AUC of one class"""

FORMAT: Literal[1] = 1
MANIFEST_FILE = "manifest.json"
Precision = Literal["float32", "int8"]
"""of the deeper layers, and so of what they read"""

TOLERANCE = 1e-5
"""numbers agree when ``|a - b| <= tolerance * max(1, |b|)``"""
HALF_TOLERANCE = 2e-3
"""of scores by state in float16, for items whose numbers are as those of the log"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSpec(_Frozen):
    """One prediction of the model: one output of `rank.onnx`, of the same name.

    Attributes:
        name: of the output.
        kind: a binary task's score is a probability, a regression task's a number in its unit.
        event: what is predicted, e.g. ``buy``.
        given: the event it is conditional on, e.g. ``click`` for pCVR; None over all impressions.
        transform: of the label in training; its inverse is inside the graph.
        unit: of a regression task's score.
    """

    name: Name
    kind: Literal["binary", "regression"]
    event: str
    given: str | None = None
    transform: Literal["none", "log1p"] = "none"
    unit: str | None = None


class StateArray(_Frozen):
    """What the items' graph gives, kept for every item; the item axis is written as 0 in `shape`."""

    name: str
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    shape: tuple[int, ...]
    item_axis: int


class Int8(_Frozen):
    """What `rank.int8.onnx` is worth beside `rank.onnx`, measured on requests when the bundle was made.

    Attributes:
        tolerance: of its golden scores.
        kendall_tau: between the two orders of the fused score; 1 where they are the same.
        ndcg: NDCG@10 of its order, the gains being the fused scores by `rank.onnx`.
        state: outputs of `item.int8.onnx`, which it reads; empty where it reads those of `item.onnx`.
    """

    tolerance: Annotated[float, Field(gt=0, le=0.1)]
    kendall_tau: float
    ndcg: float
    state: tuple[StateArray, ...] = ()


class Manifest(_Frozen):
    """A bundle's own account.

    Attributes:
        features: the fitted schema.
        state: outputs of `item.onnx`, inputs of `rank.onnx`.
        user_state: outputs of `user.onnx`, inputs of `rank.onnx`.
        fusion: the formula where the deployment names none.
        files: SHA-256 of every other file.
        tolerance: of the golden scores; they must prove something.
        int8: of `rank.int8.onnx`, where there is one.
        left_out: what was asked for when the bundle was made and is not in it, and why.
        metrics: offline, by part of the split and task.
        training: the config of the run.
        commit: of the code that trained it.
        libraries: versions, by name.
    """

    format: Literal[1] = FORMAT
    version: Version
    created: str
    architecture: str
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    features: FeatureSchema
    state: tuple[StateArray, ...]
    user_state: tuple[str, ...]
    fusion: FusionFormula
    files: dict[str, Sha256]
    tolerance: Annotated[float, Field(gt=0, le=0.1)] = TOLERANCE
    int8: Int8 | None = None
    left_out: dict[str, str] = {}
    metrics: dict[str, dict[str, Metrics]] = {}
    training: dict[str, JsonValue] = {}
    commit: str | None = None
    libraries: dict[str, str] = {}

    def outputs(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(task.name for task in self.tasks)

    def state_in(self, precision: Precision) -> tuple[StateArray, ...]:
        """The state arrays that are read in a precision."""
        small = self.int8.state if precision == "int8" and self.int8 else ()
        return small or self.state

    def tolerance_in(self, precision: Precision) -> float:
        """Of the golden scores, in a precision."""
        return self.int8.tolerance if precision == "int8" and self.int8 else self.tolerance


def graph_inputs(features: FeatureSchema, *sides: Side) -> dict[str, tuple[str, int]]:
    """Names of the arrays of the given sides that are not empty -> dtype and width."""
    inputs: dict[str, tuple[str, int]] = {}
    for side in sides:
        layout = features.layout(side)
        inputs |= {f"{side}_index": ("int32", layout.index_width)} if layout.index_width else {}
        inputs |= {f"{side}_value": ("float32", layout.value_width)} if layout.value_width else {}
    return inputs
