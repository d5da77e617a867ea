"""What the demo shows: versions, the formula, slates and how they change, as tables for a terminal.

Knows the JSON of `rankserve bundles show` and of `POST /v1/rank`, and no process and no HTTP.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

METRICS = {"auc": "AUC", "correlation": "correlation", "ndcg@10": "NDCG@10"}
"""What a task is judged by: the first of these that it has."""


def versions_table(versions: Sequence[Json]) -> Table:
    """Offline metrics on the days held out for the test, a row a task and a column a version."""
    table = _table("offline, on the last days of the log")
    table.add_column("task")
    table.add_column("metric")
    for version in versions:
        size = f"{version['architecture']}, {version['bytes'] / 2**20:.1f} MiB"
        table.add_column(f"{version['version']}\n{size}", justify="right")
    tests = [version["metrics"]["test"] for version in versions]
    for task in dict.fromkeys(task for test in tests for task in test):
        found = [test.get(task, {}) for test in tests]
        metric = next((name for name in METRICS if any(name in one for one in found)), None)
        if metric is not None:
            table.add_row(task, METRICS[metric], *(_number(one.get(metric), 4) for one in found))
    return table


def formula_text(fusion: Json) -> str:
    """A fusion formula in one line: `valid_view · (0.05 + completion)^0.5 · log1p(length_s)^0.3`."""
    groups = []
    for group in fusion["groups"]:
        factors = " · ".join(map(_factor_text, group["factors"]))
        groups.append(factors if group.get("weight", 1) == 1 else f"{group['weight']:g} · {factors}")
    return " + ".join(groups)


def attributes(item: Json) -> tuple[str, ...]:
    """The item attributes that the formula reads, by an explained item: its factors that are no task."""
    names = (factor["name"] for group in item["factors"] for factor in group["factors"])
    return tuple(dict.fromkeys(name for name in names if name not in item["tasks"]))


def terms(item: Json) -> dict[str, float]:
    """The factor of each item attribute, of the first group that reads it: exp of its log contribution."""
    found: dict[str, float] = {}
    for group in item["factors"]:
        logs: Counter[str] = Counter()
        for factor in group["factors"]:
            if factor["name"] not in item["tasks"]:
                logs[factor["name"]] += factor["log"]
        found = {name: math.exp(log) for name, log in logs.items()} | found
    return found


def slate_table(title: str, slate: Json, values: Mapping[str, Mapping[str, float]]) -> Table:
    """A slate, the best first: what each video is, its score, and what made it.

    Args:
        title: above the table.
        slate: an answer with tasks and factors.
        values: attribute -> id -> its value; nothing where the service knows none.
    """
    tasks, known = list(slate["items"][0]["tasks"]), attributes(slate["items"][0])
    table = _table(title, gap=0)
    table.show_edge = False
    for header in ("#", "id", "score", *tasks, *chain.from_iterable((name, "its_term") for name in known)):
        words = header.split("_")
        # On a narrow terminal the longest headers break, and no number does.
        table.add_column("\n".join(words), justify="right", overflow="fold", no_wrap=max(map(len, words)) < 8)
    for place, item in enumerate(slate["items"], start=1):
        factor = terms(item)
        facts = ((_number(values[name].get(item["id"]), 1), _number(factor[name], 3)) for name in known)
        table.add_row(
            str(place),
            item["id"],
            Text(_number(item["score"], 4), "bold"),
            *(_number(item["tasks"][name], 3) for name in tasks),
            *chain.from_iterable(facts),
        )
    return table


def change_table(title: str, before: Json, after: Json) -> Table:
    """One user's slates by two versions: where each video of the later one stood in the earlier."""
    table = _table(f"{title}, by {before['version']} and by {after['version']}")
    for header in ("#", "was", "", "id", f"score by\n{before['version']}", f"score by\n{after['version']}"):
        table.add_column(header, justify="right")
    old = {item["id"]: (place, item["score"]) for place, item in enumerate(before["items"], start=1)}
    for place, item in enumerate(after["items"], start=1):
        was, score = old[item["id"]]
        scores = _number(score, 4), _number(item["score"], 4)
        table.add_row(str(place), str(was), _move(was - place), item["id"], *scores)
    return table


def traffic_table(latencies_ms: Mapping[str, Sequence[float]]) -> Table:
    """Who answered how many requests, and how fast, as the caller saw it."""
    table = _table("requests meanwhile")
    for header in ("answered by", "requests", "median ms", "slowest ms"):
        table.add_column(header, justify="left" if header == "answered by" else "right")
    for version, took in latencies_ms.items():
        table.add_row(version, f"{len(took):,}", f"{statistics.median(took):.1f}", f"{max(took):.1f}")
    return table


def _table(title: str, gap: int = 1) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0)
    )


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:,.{places}f}"


def _move(up: int) -> Text:
    if up == 0:
        return Text("")
    return Text(f"▲{up}", "green") if up > 0 else Text(f"▼{-up}", "red")


def _factor_text(factor: Json) -> str:
    x = factor.get("task") or factor["item"]
    if factor.get("transform", "none") != "none":
        x = f"{factor['transform']}({x})"
    scale, offset, weight = factor.get("scale", 1), factor.get("offset", 0), factor.get("weight", 1)
    base = x if scale == 1 else f"{scale:g}·{x}"
    if offset:
        base = f"({offset:g} + {base})"
    return base if weight == 1 else f"{base}^{weight:g}"
