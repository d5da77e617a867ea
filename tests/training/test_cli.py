"""`ranktrain fit` from a folder of files to a bundle that serves, and what it says when it cannot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.bundle.store import read_manifest, versions
from service.engine import EngineOptions
from service.model import Model, ModelOptions
from tests.training.datasets.kuairand_files import USERS, write_kuairand
from training.cli import app, metrics_tables

CONFIG = """
[dataset]
name = "kuairand"
[split]
train_until = 2022-04-22
validate_until = 2022-04-23
[[features]]
name = "age"
kind = "numeric"
source = "user.register_days"
[[features]]
name = "video"
kind = "categorical"
source = "item.item_id"
[[features]]
name = "duration"
kind = "numeric"
source = "item.video_duration"
[[tasks]]
name = "click"
gain = 1
[[tasks]]
name = "long_view"
mask = "click"
[[tasks]]
name = "completion"
kind = "regression"
[model]
name = "shared_bottom"
embedding = 4
bottom_hidden = [8]
tower_hidden = []
[train]
epochs = 2
batch_size = 32
[[fusion.groups]]
factors = [{ task = "click" }, { item = "video_duration", transform = "log1p", default = 1000 }]
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run finds and leaves its files."""

    config: Path
    data: Path
    models: Path
    metrics: Path

    def fit(self, *more: str, version: str = "v1", data: Sequence[str] | None = None) -> Result:
        """Run `ranktrain fit` on the config."""
        data = ["--data", str(self.data)] if data is None else data
        arguments = [
            "fit",
            str(self.config),
            *data,
            "--models",
            str(self.models),
            "--version",
            version,
            *more,
        ]
        return CliRunner().invoke(app, arguments)


def place(folder: Path) -> Place:
    """A config and data; no models yet."""
    (folder / "run.toml").write_text(CONFIG, encoding="utf-8")
    data = write_kuairand(folder / "data")
    return Place(folder / "run.toml", data, folder / "models", folder / "metrics.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Result]:
    """One run that ends well."""
    here = place(tmp_path_factory.mktemp("run"))
    return here, here.fit("--metrics-json", str(here.metrics), "--set", "train.epochs=1", "--seed", "3")


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """Files for a run that ends badly."""
    return place(tmp_path)


def test_a_run_makes_a_bundle(made: tuple[Place, Result]) -> None:
    """Its folder is all that goes to stdout; tables and progress go to stderr."""
    here, result = made
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{here.models / 'v1'}\n"
    assert versions(here.models) == ["v1"]
    assert "epoch 1: validation" in result.stderr
    assert "epoch 2" not in result.stderr
    assert all(word in result.stderr for word in ("v1: test days", "log_loss", "ndcg@10"))
    assert read_manifest(here.models / "v1").training["train"]["epochs"] == 1  # type: ignore[index, call-overload]


def test_metrics_are_written_by_part_and_task(made: tuple[Place, Result]) -> None:
    """As the manifest has them; the fused score stands beside the tasks."""
    here, _ = made
    written = json.loads(here.metrics.read_text(encoding="utf-8"))
    assert written.keys() == {"version", "validate", "test"}
    assert written["version"] == "v1"
    for part in ("validate", "test"):
        by_task = written[part]
        assert by_task.keys() == {"click", "long_view", "completion", "fused"}
        assert by_task["click"].keys() >= {"auc", "gauc", "log_loss", "pcoc"}
        assert by_task["completion"].keys() >= {"mae", "rmse", "correlation"}
        assert by_task["fused"].keys() == {"gauc_click", "gauc_long_view", "ndcg@10"}
        assert by_task["click"]["rows"] == 100 > by_task["long_view"]["rows"]
    assert read_manifest(here.models / "v1").metrics == {part: written[part] for part in ("validate", "test")}


def test_a_bundle_without_crosses_serves(made: tuple[Place, Result]) -> None:
    """Its rank.onnx has no cross inputs, and its user.onnx no index; the service proves it and ranks."""
    here, _ = made
    manifest = read_manifest(here.models / "v1")
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(here.models / "v1", ModelOptions(EngineOptions(provider="cpu")), executor)
        encoded = model.encoder.request("1", {}, {}, ["0", "11", "nothing"], {1: {"video_duration": 7}})
        scores = model.engine.run([encoded, encoded])[1].scores
        model.close()
    assert (encoded.cross.index.shape[1], encoded.cross.value.shape[1]) == (0, 0)
    assert encoded.user.index.shape[1] == 0
    assert scores.keys() == set(manifest.outputs())
    assert all(values.shape == (3,) for values in scores.values())


FAULTS: list[tuple[list[str], str]] = [
    (["--set", "train.epoch=2"], r"run.toml:\n  train.epoch: unknown key"),
    (["--set", "train.epochs"], "write key.path=value"),
    (["--set", "split.train_until=2022-05-01"], "validate_until must be a later day"),
    (
        ["--set", "split.validate_until=2022-05-01"],
        "no impressions to test; the log has the days 20220422 to",
    ),
    (["--set", "train.learning_rate=1e30"], "loss is not finite; lower train.learning_rate"),
    (["--version", "../v1"], "'../v1' is no version name"),
    (["--set", "features=[]"], "none is of the user"),
    (["--metrics-json", "/nowhere/at/all.json"], "--metrics-json: there is no folder /nowhere/at"),
]


@pytest.mark.parametrize(("more", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_what_the_caller_can_mend_is_a_line(here: Place, more: list[str], message: str) -> None:
    """An error without a traceback, exit code 1, nothing on stdout, no bundle."""
    check(here, here.fit(*more), message.replace(r"\n", "\n"))


def check(here: Place, result: Result, message: str) -> None:
    """The command ended in an error of that message, and left nothing."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("error:") == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert versions(here.models) == []


def test_missing_files_are_a_line(here: Place, tmp_path: Path) -> None:
    """A config, the folder of the data, one file of it, and no folder given."""
    check(here, Place(tmp_path / "no.toml", here.data, here.models, here.metrics).fit(), "No such file")
    check(here, here.fit(data=["--data", str(tmp_path / "nowhere")]), "no log_standard_*")
    check(here, here.fit(data=[]), "give their folder with --data")
    (here.data / USERS).unlink()
    check(here, here.fit(), "no user_features_*")


def test_a_message_is_told_as_it_is(here: Place) -> None:
    """Square brackets in it are no markup: the fix that it names stays readable."""
    here.config.write_text(CONFIG.replace("user.register_days", "stats.rate"), encoding="utf-8")
    check(here, here.fit(), "declare [tables.stats]")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("user.register_days", "user.registered", "user.registered: is read by age and not in the log"),
        ('name = "long_view"', 'name = "love"', "tasks.love.label: the log has no label 'love'"),
        ('item = "video_duration"', 'item = "price"', "price: unknown item attribute"),
        ('item = "video_duration"', 'item = "video_type"', "item.video_type: is no item field of numbers"),
        ('mask = "click"', 'mask = "hate"', "tasks.long_view: no training impression has a label"),
    ],
)
def test_what_does_not_fit_the_log_is_refused_before_training(
    here: Place, old: str, new: str, message: str
) -> None:
    """Features, labels and the formula: nobody waits for a model that cannot be."""
    here.config.write_text(CONFIG.replace(old, new), encoding="utf-8")
    result = here.fit()
    check(here, result, message)
    assert "epoch" not in result.stderr


def test_an_existing_version_is_refused_before_training(here: Place) -> None:
    """Not after minutes of it."""
    (here.models / "v1").mkdir(parents=True)
    result = here.fit()
    check(here, result, "v1: this version exists")
    assert "epoch" not in result.stderr


def test_a_folder_that_cannot_be_made_is_found_before_training(here: Place) -> None:
    """A file stands where the models should lie."""
    here.models.write_text("", encoding="utf-8")
    result = here.fit()
    check(here, result, "File exists")
    assert "epoch" not in result.stderr


def test_metrics_are_seen_though_they_cannot_be_written(here: Place) -> None:
    """The tables come first; the version is there."""
    result = here.fit("--set", "train.epochs=1", "--metrics-json", f"{'long' * 99}.json")
    assert result.exit_code == 1
    assert "v1: test days" in result.stderr
    assert "File name too long" in result.stderr
    assert versions(here.models) == ["v1"]


@pytest.mark.parametrize("seed", ["-1", str(2**63), "one"])
def test_a_seed_has_bounds(here: Place, seed: str) -> None:
    """What a generator cannot be seeded with is refused as usage."""
    result = here.fit("--seed", seed)
    assert result.exit_code == 2
    assert "--seed" in result.stderr


def test_a_table_has_the_tasks_that_share_metrics() -> None:
    """Null cells are empty; a task alone stands upright."""
    by_task: dict[str, Any] = {
        "click": {"auc": 0.5, "rows": 1200},
        "like": {"auc": None, "rows": 0},
        "watch": {"mae": 3.25},
    }
    tables = list(metrics_tables(by_task))
    cells = [[list(column.cells) for column in table.columns] for table in tables]
    assert cells == [[["click", "like"], ["0.5000", ""], ["1,200", "0"]], [["mae"], ["3.2500"]]]
