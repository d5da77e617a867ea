"""Tables: every number is in its place, and none is cut on a narrow terminal."""

import io
import math
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from deploy.slates import (
    attributes,
    change_table,
    formula_text,
    slate_table,
    terms,
    traffic_table,
    versions_table,
)

TASKS = {"click": 0.25, "valid_view": 0.5, "completion": 0.123, "like": 0.01, "share": 0.02, "comment": 0.03}


def drawn(table: Table, width: int = 120) -> list[list[str]]:
    """The words of each line, as drawn."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines()]


def factor(name: str, log: float) -> dict[str, Any]:
    """One factor of an explained item."""
    return {"name": name, "log": log}


def item(id: str, score: float | None, *groups: list[dict[str, Any]]) -> dict[str, Any]:
    """A ranked item with its task scores and the factors of its groups."""
    explained = [{"log_weight": 0.0, "log_score": 0.0, "factors": list(group)} for group in groups]
    return {"id": id, "score": score, "tasks": TASKS | {"cart": 0.4, "buy": 0.6}, "factors": explained}


def slate(version: str, **scores: float) -> dict[str, Any]:
    """An answer with these scores by id, the best first."""
    ordered = sorted(scores.items(), key=lambda pair: -pair[1])
    length = [factor("click", -1.0), factor("length_s", math.log(1.5))]
    return {"version": version, "items": [item(id, score, length) for id, score in ordered]}


def test_a_slate_shows_every_number() -> None:
    """Place, id, score, the tasks, the length and its term; what is unknown is a dash."""
    rows = drawn(slate_table("user 7", slate("demo-1", a=0.5, b=0.25), {"length_s": {"b": 30.04}}))
    scores = ["0.250", "0.500", "0.123", "0.010", "0.020", "0.030", "0.400", "0.600"]
    assert ["1", "a", "0.5000", *scores, "-", "1.500"] in rows
    assert ["2", "b", "0.2500", *scores, "30.0", "1.500"] in rows


def test_a_slate_fits_eighty_columns() -> None:
    """The header of eight tasks breaks before any number does."""
    table = slate_table(
        "user 7", slate("demo-1", **{"5000": 0.5, "5001": 0.25}), {"length_s": {"5000": 299.9}}
    )
    assert ["1", "5000", "0.5000"] in [row[:3] for row in drawn(table, width=80)]
    assert ["299.9", "1.500"] in [row[-2:] for row in drawn(table, width=80)]


def test_an_item_without_a_score_has_a_dash() -> None:
    """The service answers null where the model gave no finite number."""
    answer = {"version": "demo-1", "items": [item("a", None, [factor("click", 0.0)])]}
    assert ["1", "a", "-"] in [row[:3] for row in drawn(slate_table("", answer, {}))]


def test_terms_are_the_factors_of_attributes() -> None:
    """It is exp of the log; twice in a group is a product, and the first group that reads one counts."""
    one = item(
        "a",
        0.5,
        [factor("click", -2.0), factor("length_s", math.log(2)), factor("length_s", math.log(3))],
        [factor("length_s", math.log(10)), factor("price", math.log(7))],
    )
    assert attributes(one) == ("length_s", "price")
    assert terms(one) == {"length_s": pytest.approx(6), "price": pytest.approx(7)}
    assert terms(item("a", 0.5, [factor("click", -2.0)])) == {}


def test_a_change_tells_where_each_item_was() -> None:
    """Up, down, and in its place."""
    rows = drawn(change_table("user 7", slate("v1", a=0.4, b=0.3, c=0.2), slate("v2", b=0.6, a=0.5, c=0.1)))
    assert ["1", "2", "▲1", "b", "0.3000", "0.6000"] in rows
    assert ["2", "1", "▼1", "a", "0.4000", "0.5000"] in rows
    assert ["3", "3", "c", "0.2000", "0.1000"] in rows


def test_versions_stand_side_by_side() -> None:
    """A row a task with the metric it has; one without any of them has no row, a missing number a dash."""
    shared = {"architecture": "mmoe", "bytes": 3 * 2**20}
    first = {"click": {"auc": 0.71, "log_loss": 0.5}, "watch": {"mae": 1.0}, "fused": {"ndcg@10": 0.8}}
    second = {"click": {"auc": None}, "completion": {"correlation": 0.25}}
    rows = drawn(
        versions_table(
            [
                {"version": "v1", "metrics": {"test": first}, **shared},
                {"version": "v2", "metrics": {"test": second}, **shared},
            ]
        )
    )
    assert ["click", "AUC", "0.7100", "-"] in rows
    assert ["completion", "correlation", "-", "0.2500"] in rows
    assert ["fused", "NDCG@10", "0.8000", "-"] in rows
    assert "watch" not in [row[0] for row in rows if row]


def test_traffic_is_told_by_version() -> None:
    """How many, and how long they took."""
    rows = drawn(traffic_table({"v1": [1.0, 3.0, 2.0], "v2": [5.0]}))
    assert ["v1", "3", "2.0", "3.0"] in rows
    assert ["v2", "1", "5.0", "5.0"] in rows


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([{"factors": [{"task": "click"}]}], "click"),
        (
            [{"factors": [{"task": "click", "weight": 0.5}, {"item": "length_s", "transform": "log1p"}]}],
            "click^0.5 · log1p(length_s)",
        ),
        ([{"factors": [{"task": "like", "offset": 0.01, "scale": 2.0, "weight": 3}]}], "(0.01 + 2·like)^3"),
        (
            [{"weight": 1.0, "factors": [{"task": "a"}]}, {"weight": 2.5, "factors": [{"task": "b"}]}],
            "a + 2.5 · b",
        ),
    ],
)
def test_a_formula_reads_as_one(groups: list[dict[str, Any]], text: str) -> None:
    """What changes nothing is left out."""
    assert formula_text({"groups": groups}) == text
