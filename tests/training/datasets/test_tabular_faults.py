"""What is wrong with a log of one's own, or with the config that describes it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service.bundle.errors import FeatureError
from tests.training.datasets.tabular_files import LOG, impression, write
from tests.training.datasets.test_tabular import CONFIG, DATASET, read
from training.config import ConfigError, parse_config
from training.train import train


@pytest.mark.parametrize(
    ("keys", "row", "message"),
    [
        ({"user": "guest"}, {}, f"{LOG}: has no column 'guest'; it has 'seen_at', 'member', "),
        ({"context": ["os"]}, {}, f"{LOG}: has no column 'os'; it has "),
        ({}, {"seen_at": "May 1"}, f"{LOG}: column 'seen_at' holds 'May 1', which is no time"),
        ({}, {"seen_at": ""}, f"{LOG}: column 'seen_at' has no time in 1 rows"),
        ({}, {"member": ""}, f"{LOG}: column 'member' has no id in 1 of 1 rows"),
        ({}, {"clicked": "yes"}, "dataset.labels.click: .*'yes'.*equals = "),
        (
            {"labels": {"buy": {"column": "order_status", "equals": "Paid"}}},
            {"order_status": "paid"},
            "dataset.labels.buy: column 'order_status' never equals 'Paid'; it holds 'paid'",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, keys: dict[str, Any], row: dict[str, object], message: str
) -> None:
    """By the file, the column and the value, with what to do."""
    write(tmp_path / LOG, [impression(**row)])
    with pytest.raises(FeatureError, match=f"^{message}"):
        read(tmp_path, **keys)


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    """A header alone."""
    write(tmp_path / LOG, [impression()])
    (tmp_path / LOG).write_text(
        (tmp_path / LOG).read_text(encoding="utf-8").splitlines()[0], encoding="utf-8"
    )
    with pytest.raises(FeatureError, match=f"^{LOG}: has no rows"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tables": {"brand": {"file": "b.csv"}}}, "dataset: tables.brand: key is missing"),
        ({"tables": {"item": {}}}, "dataset: tables.item: name its file, or the columns of the log"),
        (
            {"context": ["clicked"]},
            "dataset: context.clicked: 'clicked' is what the label 'click' is made of",
        ),
        (
            {"tables": {"item": {"fields": {"ctr": "clicked"}}}},
            "dataset: tables.item.fields.ctr: 'clicked' is what the label",
        ),
        (
            {"tables": {"item": {"key": "category", "fields": ["price"]}}},
            "dataset: tables.item.key: of the log it is 'listing'; leave it out, or rename the table",
        ),
        ({"lists": {"categry": ";"}}, "dataset: lists.categry: no such column is read"),
        ({"user": "clicked"}, "dataset: user: 'clicked' is what the label 'click' is made of"),
        ({"item": "clicked"}, "dataset: item: 'clicked' is what the label 'click' is made of"),
        (
            {"tables": {"kind": {"key": ["category", "clicked"], "fields": ["price"]}}},
            "dataset: tables.kind.key: 'clicked' is what the label",
        ),
        (
            {"time_fields": ["hour"], "context": {"hour": "device"}},
            "dataset: context.hour: is one of time_fields, too",
        ),
        ({"log": "/log.csv"}, "dataset.log: '/log.csv' leaves the folder of --data"),
        ({"log": "../log.csv"}, r"dataset.log: '../log.csv' leaves the folder"),
        (
            {"labels": {"click": {"column": "clicked", "above": 1, "equals": 1}}},
            "dataset.labels.click: above and equals exclude each other",
        ),
        ({"labels": {}}, "dataset.labels: needs at least 1 of them"),
        ({"columns": []}, "dataset.columns: unknown key"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(keys: dict[str, Any], message: str) -> None:
    """Before any file is read, by the key as the config has it."""
    with pytest.raises(ConfigError, match=message):
        parse_config({"dataset": DATASET | keys}, "mine.toml")


@pytest.mark.parametrize(
    ("tables", "place"),
    [
        ({}, "context.price: expected a number, got 'dear', in column 'price' of impressions.csv"),
        (
            {"item": {"file": "listings.csv"}},
            "item.price: expected a number, got 'cheap', in column 'price' of listings.csv",
        ),
        (
            {"item": {"file": "listings.csv", "fields": {"price": "cost"}}},
            "item.price: expected a number, got 'free', in column 'cost' of listings.csv",
        ),
    ],
)
def test_a_bad_number_is_named_with_its_file(tmp_path: Path, tables: dict[str, Any], place: str) -> None:
    """And its column, which may be called otherwise than the field."""
    rows = [impression(seen_at=f"2024-05-{day:02}", price="dear") for day in range(1, 15)]
    write(tmp_path / LOG, rows)
    write(tmp_path / "listings.csv", [{"listing": "L1", "price": "cheap", "cost": "free"}])
    raw = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    source = "item.price" if tables else "context.price"
    ids = [{"name": name, "kind": "categorical", "source": f"{name}.{name}_id"} for name in ("user", "item")]
    raw["features"] = [*ids, {"name": "price", "kind": "numeric", "source": source}]
    raw["dataset"] |= {
        "tables": tables,
        "context": ["price"],
        "labels": {"click": "clicked", "buy": "clicked"},
    }
    with pytest.raises(FeatureError) as refused:
        train(parse_config(raw, "mine"), tmp_path, tmp_path / "models", "v1", 0, Console(quiet=True))
    assert str(refused.value) == place


def test_a_table_that_lacks_the_log_s_ids_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Most of them: a warning, with one of each; all of them: refused; some: nothing."""
    tables = {"item": {"file": "listings.csv"}}
    write(tmp_path / LOG, [impression(listing=name) for name in ("L1", "l-2", "l-3")])
    for known, warned in ((["L1", "l-2"], 0), (["L1"], 1)):
        write(tmp_path / "listings.csv", [{"listing": name, "n": 1} for name in known])
        read(tmp_path, tables=tables)
        assert len(caplog.messages) == warned
    assert "listings.csv: has no row of 2 of the log's 3 item ids, 'l-2' among them" in caplog.text
    write(tmp_path / "listings.csv", [{"listing": "LL1", "n": 1}])
    with pytest.raises(
        FeatureError, match=r"^listings.csv: has no row of 3 .* 'L1' among them; it has 'LL1'"
    ):
        read(tmp_path, tables=tables)


def test_a_separator_of_no_column_is_refused(tmp_path: Path) -> None:
    """Also where a whole file tells its columns only when it is read."""
    write(tmp_path / LOG, [impression()])
    write(tmp_path / "listings.csv", [{"listing": "L1", "tags": "a|b"}])
    with pytest.raises(FeatureError, match=r"^dataset.lists.tgas: no such column is read; is it misspelled"):
        read(tmp_path, lists={"tgas": "|"}, tables={"item": {"file": "listings.csv"}})


def test_a_key_that_comes_twice_is_shown(tmp_path: Path) -> None:
    """With its file and column."""
    write(tmp_path / LOG, [impression()])
    write(tmp_path / "listings.csv", [{"listing": name, "n": 1} for name in ("L1", "L2", "L1")])
    with pytest.raises(
        FeatureError, match=r"^listings.csv: the key listing comes again in 1 rows, 'L1' among them"
    ):
        read(tmp_path, tables={"item": {"file": "listings.csv"}})
