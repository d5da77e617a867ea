"""A log of one's own, described by a config."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from service.bundle.columns import Column, Numbers
from tests.training.datasets.tabular_files import LOG, impression, write, write_log
from training.config import load_config, parse_config
from training.datasets import load_log
from training.datasets.tabular_config import TabularConfig
from training.impressions import Log
from training.train import train

CONFIG = Path(__file__).parents[3] / "configs/example_tabular.toml"
DATASET: dict[str, Any] = {
    "name": "tabular",
    "log": LOG,
    "user": "member",
    "item": "listing",
    "time": "seen_at",
    "labels": {"click": "clicked"},
}


def read(folder: Path, **keys: Any) -> Log:
    """The log that these keys of a config describe."""
    return load_log(TabularConfig.model_validate(DATASET | keys), folder)


def values(column: Column) -> list[object]:
    """Its values, None where one is missing."""
    return [column.at(row) for row in range(len(column))]


def test_a_log_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    """In order of time; fields may be called otherwise than their columns."""
    write(
        tmp_path / LOG,
        [
            impression(seen_at="2024-05-02T09:30:00", member=2, listing="L2", device="web", clicked=1),
            impression(seen_at="2024-05-01T20:15:00", member=1, listing="L1", device="", position=3),
        ],
    )
    impressions = read(
        tmp_path, context={"on": "device", "position": "position"}, time_fields=["hour", "weekday"]
    ).impressions
    assert impressions.user_id.tolist() == ["1", "2"]
    assert impressions.item_id.tolist() == ["L1", "L2"]
    assert impressions.day.tolist() == [20240501, 20240502]
    assert {name: values(column) for name, column in impressions.context.items()} == {
        "on": [None, "web"],
        "position": [3.0, None],
        "hour": [20.0, 9.0],
        "weekday": [2.0, 3.0],
    }
    assert impressions.labels["click"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("label", "cells", "expected"),
    [
        ("clicked", ["1", "0", ""], [1, 0, np.nan]),
        ("clicked", ["true", "false", ""], [1, 0, np.nan]),
        ({"column": "clicked", "above": 30}, ["30", "30.5", ""], [0, 1, np.nan]),
        ({"column": "clicked", "equals": "paid"}, ["paid", "open", ""], [1, 0, np.nan]),
        ({"column": "clicked", "equals": "paid", "empty": 0}, ["paid", "open", ""], [1, 0, 0]),
        ({"column": "clicked", "equals": 2}, ["2", "1", ""], [1, 0, np.nan]),
        ({"column": "clicked", "equals": True}, ["True", "False", ""], [1, 0, np.nan]),
        ({"column": "clicked", "empty": 1}, ["0.5", "0", ""], [0.5, 0, 1]),
    ],
)
def test_a_label_is_a_number_or_a_condition(
    tmp_path: Path, label: Any, cells: list[str], expected: list[float]
) -> None:
    """An empty cell is unknown, unless the config says what it means."""
    write(tmp_path / LOG, [impression(clicked=cell) for cell in cells])
    found = read(tmp_path, labels={"click": label}).impressions.labels["click"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_ids_make_tables_of_their_own(tmp_path: Path) -> None:
    """Without fields: the service then knows which ids it has seen."""
    write(tmp_path / LOG, [impression(listing=name) for name in ("L1", "L2", "L1")])
    tables = read(tmp_path).tables
    assert tables["item"].keys[0].tolist() == ["L1", "L2"]
    assert tables["user"].keys[0].tolist() == ["m1"]
    assert tables["item"].columns == {}


def test_a_table_of_the_log_holds_the_last_values(tmp_path: Path) -> None:
    """Those that are there; every row has its own, so that none sees the future."""
    rows = [
        impression(seen_at="2024-05-03", price=12, category=""),
        impression(seen_at="2024-05-01", price=10, category="shoes"),
        impression(seen_at="2024-05-02", price=11, category="bags", listing="L2"),
        impression(seen_at="2024-05-04", price="", category="", listing="L2"),
    ]
    write(tmp_path / LOG, rows)
    log = read(tmp_path, tables={"item": {"fields": ["price", "category"]}})
    item = log.tables["item"]
    assert {
        key: [column.at(row) for column in item.columns.values()] for row, key in enumerate(item.keys[0])
    } == {
        "L1": [12.0, "shoes"],
        "L2": [11.0, "bags"],
    }
    assert values(log.impressions.inline["item.price"]) == [10.0, 11.0, 12.0, None]
    assert values(log.impressions.inline["item.category"]) == ["shoes", "bags", None, None]


def test_a_table_of_the_log_may_have_a_key_of_its_own(tmp_path: Path) -> None:
    """As of a brand or a city; a row without a key is passed over."""
    rows = [impression(category=name, price=price) for name, price in (("a", 1), ("", 2), ("b", 3), ("a", 4))]
    write(tmp_path / LOG, rows)
    log = read(tmp_path, tables={"kind": {"key": ["category", "member"], "fields": {"cost": "price"}}})
    kind = log.tables["kind"]
    assert [part.tolist() for part in kind.keys] == [["a", "b"], ["m1", "m1"]]
    assert values(kind.columns["cost"]) == [4.0, 3.0]


def test_a_table_may_be_a_file(tmp_path: Path) -> None:
    """CSV or Parquet, all of its columns or those named; lists by their separator."""
    write(tmp_path / LOG, [impression()])
    write(tmp_path / "listings.csv", [{"listing": "L1", "tags": "a|b", "size (m)": "4"}])
    pd.DataFrame({"id": ["m1"], "town": ["Bonn"], "age": [30]}).to_parquet(tmp_path / "people.parquet")
    tables = read(
        tmp_path,
        lists={"tags": "|"},
        tables={
            "item": {"file": "listings.csv"},
            "user": {"file": "people.parquet", "key": "id", "fields": {"city": "town"}},
        },
    ).tables
    assert {name: values(column) for name, column in tables["item"].columns.items()} == {
        "tags": [["a", "b"]],
        "size (m)": [4.0],
    }
    assert {name: values(column) for name, column in tables["user"].columns.items()} == {"city": ["Bonn"]}


@pytest.mark.parametrize(
    ("logged", "held", "found"),
    [
        (["1.10", "2.5"], ["1.10", "1.1", "2.5"], [1, 3]),
        (["true", "false"], ["true", "false", "maybe"], [1, 2]),
        (["1.0", "1"], ["1.0", "A2"], [1, 1]),
        (["7", "8"], ["7.0", "8.0"], [1, 2]),
        (["007", "8"], ["7", "8", "007"], [3, 2]),
    ],
)
def test_an_id_finds_its_own_row(
    tmp_path: Path, logged: list[str], held: list[str], found: list[int]
) -> None:
    """Whatever else stands in the log and in the table's file; in a table of another name, too."""
    write(tmp_path / LOG, [impression(listing=name) for name in logged])
    write(tmp_path / "listings.csv", [{"listing": name, "n": at} for at, name in enumerate(held)])
    file = {"file": "listings.csv", "key": "listing"}
    log = read(tmp_path, tables={"item": file, "stock": file})
    for table in ("item", "stock"):
        assert log.tables[table].rows(log.impressions.item_id).tolist() == found


def test_the_example_trains_a_bundle(tmp_path: Path) -> None:
    """The config to copy is one that works, missing values and all; its graphs agree."""
    config = load_config(CONFIG, ["train.epochs=1", "train.threads=1", "model.expert_hidden=[8]"])
    folder = write_log(tmp_path)
    made = train(config, folder, tmp_path / "models", "v1", 0, Console(quiet=True))
    assert (made.folder / "manifest.json").exists()
    assert made.metrics["test"]["click"]["gauc"] is not None
    hour = load_log(config.dataset, folder).impressions.context["hour"]
    assert isinstance(hour, Numbers)


def test_tables_of_other_keys_are_looked_up(tmp_path: Path) -> None:
    """One of a file and one of the log; columns that no feature can name do the bundle no harm."""
    folder = write_log(tmp_path)
    odd = {"size (m)": 1, "a/b.c": "x", "": "y"}
    write(
        folder / "listings.csv",
        [{"listing": f"L{n}", "category": "bags", "price": n} | odd for n in range(9)],
    )
    write(folder / "kinds.csv", [{"kind": "shoes", "margin": 0.3}, {"kind": "bags", "margin": 0.5}])
    raw = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    raw["features"] += [
        {"name": "margin", "kind": "numeric", "source": "kinds.margin"},
        {"name": "going_rate", "kind": "numeric", "source": "rates.price"},
    ]
    raw["tables"] = {"kinds": ["item.category"], "rates": ["item.category", "user.city"]}
    raw["dataset"]["tables"] |= {
        "item": {"file": "listings.csv"},
        "kinds": {"file": "kinds.csv", "key": "kind"},
        "rates": {"key": ["category", "member_city"], "fields": ["price"]},
    }
    raw["train"] = {"epochs": 1, "threads": 1}
    made = train(parse_config(raw, "mine"), folder, tmp_path / "models", "v1", 0, Console(quiet=True))
    assert {file.name for file in made.folder.glob("table-*")} == {"table-kinds.npz", "table-rates.npz"}
