"""One training run as a TOML file: data, features, tasks, model, split, loop, bundle and fusion."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from service.bundle.errors import FusionError
from service.bundle.fusion import FusionFormula
from service.bundle.kinds import Frozen, Name
from service.bundle.manifest import TaskSpec, graph_inputs
from service.bundle.schema import FeatureSchema, Side
from training.aggregates import AggregateConfig
from training.datasets import DatasetConfig
from training.faults import told
from training.histories import HistoryConfig
from training.models import ModelConfig, without_loss

FUSED = "fused"
"""stands for the fused score where metrics are named by task"""


class ConfigError(ValueError):
    """A config is wrong; the message names the key and the fix."""


def _day(value: Any) -> Any:
    """A day as yyyymmdd, from ``2022-05-04`` (a string or a TOML date) or ``20220504``."""
    text = value.isoformat() if isinstance(value, datetime.date) else str(value)
    with suppress(ValueError):
        day = datetime.date.fromisoformat(text)
        if text in (f"{day:%Y-%m-%d}", f"{day:%Y%m%d}"):  # and no day of a week, which ISO has too
            return int(f"{day:%Y%m%d}")
    raise ValueError(f"{text!r} is no day; write 2022-05-04 or 20220504")


Day = Annotated[int, BeforeValidator(_day)]


class TaskConfig(Frozen):
    """A task: a label of the log and how the model learns it.

    Attributes:
        name: of the score.
        label: of the log; the task's name if not given.
        mask: a label that must be 1 for the row to count, in the loss and in the metrics: "only where click".
            The score is then conditional on that event.
        transform: of the label before the loss; the graph undoes it.
        weight: in the loss, and in the combination that stops training. 0 for a task that the model learns
            through the losses of others, as ESMM its conditional ones, and for no other.
        gain: of the label in NDCG of the fused score.
    """

    name: Name
    kind: Literal["binary", "regression"] = "binary"
    label: Name | None = None
    mask: Name | None = None
    transform: Literal["none", "log1p"] = "none"
    unit: str | None = None
    weight: Annotated[float, Field(ge=0)] = 1.0
    gain: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if self.kind == "binary" and self.transform != "none":
            raise ValueError("a binary task's label takes no transform; leave it out")
        if self.mask == self.event:
            raise ValueError("the mask is the task's own label, which would be 1 in every row that counts")
        if self.name == FUSED:
            raise ValueError(f"{FUSED!r} names the fused score among the metrics; choose another name")
        return self

    @property
    def event(self) -> str:
        """The label it reads."""
        return self.label or self.name

    def spec(self) -> TaskSpec:
        """What the bundle says of it."""
        return TaskSpec(
            name=self.name,
            kind=self.kind,
            event=self.event,
            given=self.mask,
            transform=self.transform,
            unit=self.unit,
        )


class SplitConfig(Frozen):
    """The split by time: training days up to and with `train_until`, validation, then test."""

    train_until: Day
    validate_until: Day

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if not self.train_until < self.validate_until:
            raise ValueError("validate_until must be a later day than train_until")
        return self


class TrainConfig(Frozen):
    """The loop.

    Attributes:
        epochs: at most.
        patience: epochs without a better validation before it stops; the best weights are kept.
        batch_size: impressions a step.
        learning_rate: of Adam, warmed up over the first steps and then decayed to a tenth by a cosine.
        weight_decay: of AdamW, on all but embeddings and biases.
        embedding_decay: of AdamW, on the embedding table.
        threads: of torch; 0 lets torch choose. With another number sums are taken in another order: the same
            seed then gives metrics that differ from about the eighth digit on.
    """

    epochs: PositiveInt = 4
    patience: PositiveInt = 2
    batch_size: PositiveInt = 2048
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    embedding_decay: Annotated[float, Field(ge=0)] = 1e-5
    threads: Annotated[int, Field(ge=0)] = 0


class ExportConfig(Frozen):
    """The bundle.

    Attributes:
        state: of the items, as it is kept in memory. float16 takes half of it; scores are then exact to 2e-3
            where an item's numbers are as those of the log.
        int8: add `rank.int8.onnx`, which has large weights in int8, and reads the items' state in eight bits,
            whatever `state` says. A service uses it where it is faster.
        int8_least_tau: the least Kendall's tau, between the orders of the fused score with and without int8,
            that the bundle takes it with.
        int8_least_ndcg: the least NDCG@10 of the order with int8, the gains being the fused scores without.
    """

    state: Literal["float32", "float16"] = "float32"
    int8: bool = False
    int8_least_tau: Annotated[float, Field(ge=0, le=1)] = 0.97
    int8_least_ndcg: Annotated[float, Field(ge=0, le=1)] = 0.99


class TrainingConfig(Frozen):
    """A whole run. Unknown keys are errors."""

    dataset: DatasetConfig
    split: SplitConfig
    aggregates: tuple[AggregateConfig, ...] = ()
    histories: tuple[HistoryConfig, ...] = ()
    features: FeatureSchema
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    fusion: FusionFormula

    @model_validator(mode="after")
    def _holds(self) -> Self:
        names = [task.name for task in self.tasks]
        unique = {
            "tasks: names": names,
            "aggregates: names": [aggregate.name for aggregate in self.aggregates],
            "histories: columns": [history.column for history in self.histories],
        }
        for what, given in unique.items():
            if len(set(given)) != len(given):
                raise ValueError(f"{what} come twice in {given}; rename one, or leave it out")
        for side in (Side.USER, Side.ITEM):
            if not graph_inputs(self.features, side):
                raise ValueError(
                    f"features: none is of the {side}; a ranker reads both the user and the item"
                )
        try:
            self.fusion.check(names, self.fusion.attributes)
        except FusionError as error:
            raise ValueError(f"fusion: {error}") from None
        return self

    @model_validator(mode="after")
    def _learns(self) -> Self:
        try:
            without = without_loss(self.model, [task.spec() for task in self.tasks])
        except ValueError as error:
            raise ValueError(f"tasks: {error}") from None
        for task in self.tasks:
            if (task.name in without) != (task.weight == 0):
                learned = f"{self.model.name} learns it through the entire-space tasks alone; set it to 0"
                fix = learned if task.weight else "nothing else trains it; set it above 0"
                raise ValueError(f"tasks.{task.name}.weight: {task.weight:g} does not fit; {fix}")
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a config; each override ``key.path=value`` replaces one value, which is read as TOML.

    An entry of an array goes by its name: ``tasks.buy.weight=0.5``.

    Raises:
        ConfigError: the file is not to be read, or a key is unknown, missing or wrong.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from None
    for override in overrides:
        _override(raw, override)
    return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], name: str) -> TrainingConfig:
    """A config from plain values. `features` and `tables` stand beside each other in the file.

    An aggregate is a table like another to the features.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """
    plain = dict(raw)
    tables, of_aggregates = plain.pop("tables", {}), _keys_of(plain.get("aggregates"))
    if isinstance(tables, Mapping):
        if twice := sorted(tables.keys() & of_aggregates):
            raise ConfigError(f"{name}:\n  aggregates.{twice[0]}: [tables] has one of that name; rename it")
        tables = {**of_aggregates, **tables}
    plain["features"] = {"features": plain.get("features", []), "tables": tables}
    try:
        return TrainingConfig.model_validate(plain)
    except ValidationError as error:
        copies = {("features", "tables", table) for table in of_aggregates}
        raise ConfigError("\n  ".join([f"{name}:", *told(error, plain, copies)])) from None


def _keys_of(aggregates: Any) -> dict[str, Any]:
    """Table -> key, of the aggregates that have both; what else is wrong with them is found later."""
    entries = aggregates if isinstance(aggregates, list) else []
    return {
        str(entry["name"]): entry["key"]
        for entry in entries
        if isinstance(entry, Mapping) and {"name", "key"} <= entry.keys()
    }


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"--set {override}: write key.path=value, e.g. train.epochs=2")
    table: Any = raw
    for part in path:
        entries = isinstance(table, list)
        table = _entry(table, part, override) if entries else table.setdefault(part, {})
        if not isinstance(table, dict | list):
            raise ConfigError(f"--set {override}: {part!r} is no section of the config")
    if isinstance(table, list):
        raise ConfigError(f"--set {override}: {last!r} is an entry; name a key of it too")
    table[last] = _toml_value(text.strip())


def _entry(entries: Sequence[Any], name: str, override: str) -> Any:
    """The entry of that name in an array of tables, as of the tasks or the features."""
    named = {str(entry["name"]): entry for entry in entries if isinstance(entry, dict) and "name" in entry}
    if name not in named:
        raise ConfigError(
            f"--set {override}: there is no {name!r} among {', '.join(named) or 'nameless ones'}"
        )
    return named[name]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
