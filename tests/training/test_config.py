"""A config: every key known, every fault named by its key, and what `--set` does to it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from service.bundle.manifest import TaskSpec
from tests.training.worlds import FEATURES, PLAIN_FEATURES, TABLES, TASKS, config, raw_config
from training.config import ConfigError, TaskConfig, load_config, parse_config
from training.models.mmoe import MMoEConfig

TOML = """
tasks = [{ name = "click" }]
fusion.groups = [{ factors = [{ task = "click" }] }]
[dataset]
name = "kuairand"
[split]
train_until = 2024-05-02
validate_until = "20240503"
[model]
name = "mmoe"
[[features]]
name = "age"
kind = "numeric"
source = "user.age"
[[features]]
name = "rate"
kind = "numeric"
source = "author_stats.rate"
[tables]
author_stats = ["item.author"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small config on disk."""
    path = tmp_path / "run.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_a_file_becomes_a_config(path: Path) -> None:
    """Sections are read, the rest has defaults, and tables lie beside the features."""
    read = load_config(path)
    assert [feature.name for feature in read.features.features] == ["age", "rate"]
    assert read.features.tables == {"author_stats": ("item.author",)}
    assert isinstance(read.model, MMoEConfig)
    assert (read.train.epochs, read.tasks) == (4, (TaskConfig(name="click"),))


@pytest.mark.parametrize(
    "day",
    [20240502, "20240502", "2024-05-02", datetime.date(2024, 5, 2)],
    ids=["int", "digits", "iso", "toml"],
)
def test_a_day_has_three_spellings(day: object) -> None:
    """A number, a string of either form and TOML's own date mean the same day."""
    split = config(split={"train_until": day, "validate_until": 20240503}).split
    assert (split.train_until, split.validate_until) == (20240502, 20240503)


@pytest.mark.parametrize(
    "day", ["2024-13-01", "20240230", "2024-5-2", "2024-W18-4", "yesterday", 2024, True, 20240502.5, None]
)
def test_what_is_no_day_is_refused(day: object) -> None:
    """The message shows the value and both spellings."""
    with pytest.raises(ConfigError, match=r"split\.train_until: .*write 2022-05-04 or 20220504"):
        config(split={"train_until": day, "validate_until": 20240503})


def _with(part: list[dict[str, Any]] | tuple[dict[str, Any], ...], **changes: Any) -> list[dict[str, Any]]:
    return [{**part[0], **changes}, *part[1:]]


PAST = {"name": "past", "key": ["item.author"], "labels": ["click"]}
LIKED = {"column": "user.liked", "where": "like"}
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"trian": {}}, "trian: unknown key"),
    ({"train": {"epoch": 2}}, r"train\.epoch: unknown key"),
    ({"model": {"name": "mmoe", "expert": 2}}, r"model\.expert: unknown key"),
    ({"dataset": {"name": "kuairand", "path": "x"}}, r"dataset\.path: unknown key"),
    ({"features": _with(FEATURES, bukets=3)}, r"features\.age\.bukets: unknown key"),
    ({"tasks": [{"name": "click", "lable": "x"}]}, r"tasks\.click\.lable: unknown key"),
    (
        {"fusion": {"groups": [{"factors": [{"task": "click", "wieght": 1}]}]}},
        r"factors\.0\.wieght: unknown key",
    ),
    ({"split": {"train_until": 20240502}}, r"split\.validate_until: is missing"),
    ({"dataset": {}}, "dataset: 'name' is missing"),
    ({"model": {"name": "transformer"}}, "model: 'name' is 'transformer'; there is 'mmoe'"),
    ({"features": [*FEATURES, {"kind": "image", "name": "frame"}]}, r"features\.frame: 'kind' is 'image'"),
    ({"features": [{"kind": "numeric", "name": "age"}]}, r"features\.age\.source: is missing"),
    ({"features": [*FEATURES, FEATURES[0]]}, "age: is declared twice"),
    ({"tables": {"user": ["item.author"]}}, r"tables\.user: is built in"),
    ({"tasks": []}, "tasks: needs at least 1 of them"),
    ({"tasks": [{"name": "click"}, {"name": "click"}]}, "names come twice"),
    ({"tasks": [{"name": "fused"}]}, r"tasks\.fused: 'fused' names the fused score"),
    ({"tasks": [{"name": "click", "transform": "log1p"}]}, "takes no transform"),
    ({"tasks": [{"name": "click", "mask": "click"}]}, "mask is the task's own label"),
    ({"tasks": [{"name": "click", "weight": -1}]}, r"tasks\.click\.weight: "),
    ({"tasks": [{**TASKS[0], "weight": 0}, *TASKS[1:]]}, r"tasks\.click\.weight: 0 .*nothing else trains it"),
    ({"train": {"epochs": "many"}}, r"train\.epochs: "),
    ({"export": {"state": "bfloat16"}}, r"export\.state: "),
    ({"export": {"int8_least_tau": 1.5}}, r"export\.int8_least_tau: "),
    ({"train": {"learning_rate": float("inf")}}, r"train\.learning_rate: .*finite"),
    (
        {"split": {"train_until": 20240503, "validate_until": 20240503}},
        "must be a later day than train_until",
    ),
    ({"fusion": {"groups": [{"factors": [{"task": "buy"}]}]}}, "fusion: buy: unknown task; .*click"),
    ({"aggregates": [PAST, PAST]}, "aggregates: names come twice in .*rename one"),
    ({"aggregates": [PAST, {**PAST, "key": "item.topic"}]}, "aggregates: names come twice in .*rename one"),
    ({"aggregates": [PAST], "tables": {"past": ["item.author"]}}, r"past: \[tables\] has one of that name"),
    ({"aggregates": [{**PAST, "key": 5}]}, r"aggregates\.past\.key: must be a list"),
    ({"aggregates": [{**PAST, "key": "author"}]}, r"past\.key\.0: 'author' is misspelled: .*item\.tag"),
    ({"histories": [LIKED, {**LIKED, "where": "click"}]}, "histories: columns come twice in .*rename one"),
    ({"histories": [{"column": "liked"}]}, r"histories\.0\.column: 'liked' is misspelled: .*a table and a"),
    ({"histories": [{"column": "item.liked"}]}, r"histories\.0: 'item.liked' is none of the user's .*user\."),
    ({"tables": ["author"]}, r"tables: Input should be a valid dictionary"),
    ({"fusion": {"groups": []}}, r"fusion\.groups: needs at least 1 of them"),
]


@pytest.mark.parametrize(("sections", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_a_fault_is_named_by_its_key(sections: dict[str, Any], message: str) -> None:
    """Unknown, missing and wrong keys are errors, told as the file spells them."""
    with pytest.raises(ConfigError, match=f"(?s)^config:.*{message}") as caught:
        config(**sections)
    assert "Value error" not in str(caught.value)
    assert "features.features" not in str(caught.value)
    assert not {"tables.past", "pattern"} & set(str(caught.value).split(":"))


def test_all_faults_are_told_at_once() -> None:
    """A line each, so that a config is mended in one go."""
    with pytest.raises(ConfigError) as caught:
        config(train={"epoch": 2}, model={"name": "mmoe", "expert": 2})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_model_reads_the_user_and_the_item(side: str) -> None:
    """A config whose features leave one of them out, or know it by crosses alone, is refused."""
    other = [feature for feature in PLAIN_FEATURES if not feature["source"].startswith(side)]
    live = (
        [{"kind": "numeric", "name": "clicks", "source": "item.clicks_1h", "live": True}]
        if side == "item"
        else []
    )
    with pytest.raises(ConfigError, match=f"features: none is of the {side}; a ranker reads both"):
        config(features=[*other, *live], tables={})


def test_a_key_of_one_path_needs_no_brackets() -> None:
    """In an aggregate and in a table alike."""
    plain = config(aggregates=[{**PAST, "key": "item.author"}], tables={**TABLES, "by_topic": "item.topic"})
    assert plain.aggregates[0].key == plain.features.tables["past"] == ("item.author",)
    assert plain.features.tables["by_topic"] == ("item.topic",)


def test_a_task_states_itself_in_the_bundle() -> None:
    """A mask is the event that the score is conditional on; the label is the event if it is not the name."""
    task = TaskConfig(
        name="watch", kind="regression", label="watch_s", mask="click", transform="log1p", unit="s"
    )
    assert task.spec() == TaskSpec(
        name="watch", kind="regression", event="watch_s", given="click", transform="log1p", unit="s"
    )
    assert TaskConfig(name="like").spec() == TaskSpec(name="like", kind="binary", event="like")


def test_a_value_is_replaced_by_its_path(path: Path) -> None:
    """`--set` reads TOML, takes what is none as a string, and makes sections that the file leaves out."""
    overrides = (
        "train.epochs=2", "model.name=shared_bottom", "model.bottom_hidden = [8, 4]",
        "split.train_until=2024-05-01", 'split.validate_until="2024-05-02"', "train.learning_rate=1e-4",
        "tasks.click.gain=2", "features.rate.transform=log1p",
    )  # fmt: skip
    read = load_config(path, overrides)
    assert (read.train.epochs, read.train.learning_rate) == (2, 1e-4)
    assert (read.model.name, read.model.model_dump()["bottom_hidden"]) == ("shared_bottom", (8, 4))
    assert (read.split.train_until, read.split.validate_until) == (20240501, 20240502)
    assert read.tasks[0].gain == 2
    assert read.features.feature("rate").model_dump()["transform"] == "log1p"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "write key.path=value"),
        ("=2", "write key.path=value"),
        ("train.=2", "write key.path=value"),
        ("train.epochs.first=2", "train.epochs.first: |'epochs' is no section"),
        ("tasks.0.weight=2", "there is no '0' among click"),
        ("tasks.click=2", "'click' is an entry; name a key of it too"),
        ("tasks.click.wieght=2", r"tasks\.click\.wieght: unknown key"),
        ("train.epocs=2", r"train\.epocs: unknown key"),
        ("train=2", "train: "),
        ("train.epochs=few", r"train\.epochs: "),
    ],
)
def test_a_wrong_replacement_is_refused(path: Path, override: str, message: str) -> None:
    """By what is wrong with its form, or with the key that it sets."""
    first = "train.epochs=3" if override.startswith("train.epochs.") else "train.epochs=2"
    with pytest.raises(ConfigError, match=message):
        load_config(path, [first, override])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, no TOML and no text: the path and the reason."""
    (tmp_path / "wrong.toml").write_text("[train\n", encoding="utf-8")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, reason in {
        "missing.toml": "No such file",
        "": "directory",
        "wrong.toml": "is no TOML",
        "binary.toml": "is no TOML",
    }.items():
        with pytest.raises(ConfigError, match=f"{name}: .*{reason}"):
            load_config(tmp_path / name)


def test_parsing_leaves_the_values_as_they_were() -> None:
    """The same plain values can be parsed again."""
    raw = raw_config()
    assert parse_config(raw, "config") == parse_config(raw, "config")
