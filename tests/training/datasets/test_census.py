"""Reading the files of census-income, in their own format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from service.bundle.columns import Numbers, Texts
from service.bundle.errors import FeatureError
from tests.training.datasets.census_files import TEST, TRAIN, person, write, write_census
from training.config import load_config
from training.datasets import load_log
from training.datasets.census import (
    COLUMNS,
    DROPPED,
    JOB_FIELDS,
    TEST_DAY,
    TRAIN_DAY,
    VALIDATE_DAY,
    CensusConfig,
    read,
)
from training.train import train

CONFIG = Path(__file__).parents[3] / "configs/census.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whole files, to be replaced one by one."""
    return write_census(tmp_path)


def test_the_files_are_three_days(folder: Path) -> None:
    """The training file, and the test file in halves; every row is a user of its own."""
    log = load_log(CensusConfig(name="census"), folder)
    days, counts = np.unique(log.impressions.day, return_counts=True)
    assert dict(zip(days.tolist(), counts.tolist(), strict=True)) == {
        TRAIN_DAY: 180,
        VALIDATE_DAY: 30,
        TEST_DAY: 30,
    }
    assert len(set(log.impressions.user_id)) == len(log) == 240


def test_the_test_file_is_halved_as_others_do(folder: Path) -> None:
    """Validation is pandas' sample(frac=.5, random_state=1), the test the rest in the order of the file."""
    rows = [person(age=age) for age in range(20)]
    write(folder / TEST, rows)
    impressions = read(folder).impressions
    age = impressions.context["age"]
    assert isinstance(age, Numbers)
    validate = pd.DataFrame({"age": range(20)}).sample(frac=0.5, random_state=1)["age"].tolist()
    assert age.values[impressions.day == VALIDATE_DAY].tolist() == validate
    assert age.values[impressions.day == TEST_DAY].tolist() == sorted(set(range(20)) - set(validate))


def test_labels_are_income_and_never_married(folder: Path) -> None:
    """With the full stop of the last column or without it."""
    rows = [
        person(income="50000+", marital_stat="Never married"),
        person(income="- 50000", marital_stat="Married-civilian spouse present"),
        person(income="50000+", marital_stat="Divorced").removesuffix("."),
    ]
    write(folder / TRAIN, rows)
    labels = read(folder).impressions.labels
    assert labels["income"][:3].tolist() == [1, 0, 1]
    assert labels["never_married"][:3].tolist() == [1, 0, 0]
    assert all(label.dtype == np.float32 for label in labels.values())


def test_the_labels_and_the_weight_are_no_fields(folder: Path) -> None:
    """Neither of the person nor of her job; every other column is, education too."""
    log = read(folder)
    fields = {*log.impressions.context, *log.tables["item"].columns}
    assert fields == {*COLUMNS} - {*DROPPED}
    assert "education" in fields
    assert {"income", "marital_stat", "instance_weight"} == {*DROPPED}


def test_counts_are_numbers_and_codes_are_texts(folder: Path) -> None:
    """Without the space before them; a question mark is missing, NA an origin."""
    write(folder / TRAIN, [person(age=73, hisp_origin="NA", mig_chg_msa="?", own_or_self=2)])
    context = read(folder).impressions.context
    assert {name: context[name].at(0) for name in ("age", "hisp_origin", "mig_chg_msa", "own_or_self")} == {
        "age": 73.0,
        "hisp_origin": "NA",
        "mig_chg_msa": None,
        "own_or_self": "2",
    }
    assert isinstance(context["age"], Numbers)
    assert isinstance(context["own_or_self"], Texts)


def test_a_job_is_an_item(folder: Path) -> None:
    """Its id is the pair of its detailed codes, its fields the codes and their groups, once a job."""
    log = read(folder)
    jobs = log.tables["item"]
    assert sorted(jobs.keys[0].tolist()) == ["10-20", "11-21", "12-22", "13-23"]
    assert (jobs.rows(log.impressions.item_id) > 0).all()
    row = int(jobs.rows(["12-22"])[0]) - 1
    assert [jobs.columns[name].at(row) for name in JOB_FIELDS] == ["12", "22", "Industry 2", "Occupation 2"]
    assert len(log.tables["user"]) == 0


@pytest.mark.parametrize("name", [TRAIN, TEST])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """With both of the names that it may have."""
    (folder / name).unlink()
    plain = name.removesuffix(".gz")
    with pytest.raises(FileNotFoundError, match=f"no {plain} or {plain}.gz; is this a folder of census"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "No columns to parse"),
        ("1, 2, 3\n", "it has 3 columns in place of 42"),
        (person(age="old") + "\n", "could not convert string to float: 'old'"),
        (person(income="much") + "\n", "its last column holds 'much' as an income"),
        (person() + "\n" + person()[:30] + "\n", "line 2 has 5 values, and the first one 42"),
    ],
    ids=["empty", "columns missing", "no number", "no income", "cut off"],
)
def test_a_file_that_is_something_else_is_named(folder: Path, content: str, message: str) -> None:
    """By its name and what is wrong with it."""
    (folder / TEST).write_text(content, encoding="utf-8")
    with pytest.raises(FeatureError, match=f"^{TEST}: is no census file: .*{message}"):
        read(folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    """Cut off, or called gzipped and not."""
    whole = (folder / TRAIN).read_bytes()
    for content, message in ((whole[: len(whole) // 2], "is damaged or cut off"), (b"a", "is not gzipped")):
        (folder / TRAIN).write_bytes(content)
        with pytest.raises(FeatureError, match=f"^{TRAIN}: {message}"):
            read(folder)


def test_the_config_trains_a_bundle(folder: Path, tmp_path: Path) -> None:
    """Every feature of it is in the files, its graphs agree, and a GAUC does not exist."""
    config = load_config(CONFIG, ["train.epochs=1", "train.threads=1", "model.expert_hidden=[8]"])
    made = train(config, folder, tmp_path / "models", "v1", 0, Console(quiet=True))
    assert (made.folder / "manifest.json").exists()
    assert made.metrics["test"]["income"]["gauc"] is None
    assert made.metrics["test"]["never_married"]["auc"] is not None
