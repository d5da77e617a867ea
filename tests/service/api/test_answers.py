"""A slate as bytes, in both forms, against objects made one by one."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import slate_json, slate_msgpack
from service.bundle.fusion import GroupLogs
from service.ranker import Slate, best
from service.wire import RankResponse

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
FLOAT32 = st.floats(width=32)
LOGS = st.floats(-9, 9) | st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def slates(draw: st.DrawFn) -> Slate:
    """Of a few candidates: ids of any text, no finite numbers among the scores, parts asked for or not."""
    ids = draw(st.lists(IDS, max_size=6))
    n = len(ids)

    def numbers(values: st.SearchStrategy[float], dtype: type[np.floating]) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype)

    scores = numbers(st.floats(), np.float64)
    logs = np.stack([numbers(LOGS, np.float64), numbers(LOGS, np.float64)])
    groups = (GroupLogs(0.5, ("click", "like"), logs, numbers(LOGS, np.float64)),)
    return Slate(
        ranker="default",
        version="v1",
        ids=ids,
        order=best(scores, draw(st.none() | st.integers(0, 4))),
        scores=scores,
        tasks={"click": numbers(FLOAT32, np.float32), "like": numbers(FLOAT32, np.float32)},
        factors=draw(st.sampled_from([None, groups])),
        degraded=("redis",),
        defaults={"users": 0, "items": 1},
        timings_ms={"total": 1.23456},
    )


def number(value: float) -> float | None:
    """As an answer has it."""
    return float(value) if math.isfinite(value) else None


def naive(slate: Slate, tasks: bool) -> list[dict[str, Any]]:
    """The items, one by one."""
    items = []
    for at in slate.order:
        item: dict[str, Any] = {"id": slate.ids[at], "score": number(slate.scores[at])}
        if tasks:
            item["tasks"] = {name: number(scores[at]) for name, scores in slate.tasks.items()}
        if slate.factors is not None:
            item["factors"] = [
                {
                    "log_weight": group.log_weight,
                    "log_score": number(group.log_score[at]),
                    "factors": [
                        {"name": name, "log": number(logs[at])}
                        for name, logs in zip(group.names, group.logs, strict=True)
                    ],
                }
                for group in slate.factors
            ]
        items.append(item)
    return items


def read_json(slate: Slate, tasks: bool) -> Any:
    """The JSON answer, its task scores as the float32 that their digits mean."""
    answer = json.loads(slate_json.encode(slate, "r1", tasks=tasks))
    for item in answer["items"]:
        for name, score in item.get("tasks", {}).items():
            item["tasks"][name] = None if score is None else float(np.float32(score))
    return answer


def read_msgpack(slate: Slate, tasks: bool) -> Any:
    """The MessagePack answer."""
    return ormsgpack.unpackb(slate_msgpack.encode(slate, "r1", tasks=tasks))


@given(slate=slates(), tasks=st.booleans())
def test_an_answer_says_what_the_slate_does(slate: Slate, tasks: bool) -> None:
    """Item by item, in order, the same in both forms; a task's score is the same float32 again."""
    expected = {
        "request_id": "r1",
        "ranker": "default",
        "version": "v1",
        "degraded": ["redis"],
        "defaults": {"users": 0, "items": 1},
        "timings_ms": {"total": 1.235},
        "items": naive(slate, tasks),
    }
    assert read_json(slate, tasks) == expected
    assert read_msgpack(slate, tasks) == expected


@given(slate=slates(), tasks=st.booleans())
def test_an_answer_is_what_the_api_promises(slate: Slate, tasks: bool) -> None:
    """It is a `RankResponse`, as /docs describes it, in both forms."""
    RankResponse.model_validate_json(slate_json.encode(slate, "r1", tasks=tasks), strict=True, extra="forbid")
    RankResponse.model_validate(read_msgpack(slate, tasks), strict=True, extra="forbid")


@pytest.mark.parametrize("count", [15, 16, 2**16 - 1, 2**16])
def test_an_answer_may_be_of_any_length(count: int) -> None:
    """MessagePack writes few, some and many entries in three ways; so do maps, of tasks here."""
    numbers, tasks = np.zeros(count, np.float32), [f"t{task}" for task in range(min(count, 20))]
    slate = Slate(
        ranker="default", version="v1", ids=["é"] * count, order=np.arange(count),
        scores=np.arange(count) / 2, tasks=dict.fromkeys(tasks, numbers), factors=None,
        degraded=(), defaults={}, timings_ms={},
    )  # fmt: skip
    items = read_msgpack(slate, tasks=True)["items"]
    assert len(items) == count
    assert items[-1] == {"id": "é", "score": (count - 1) / 2, "tasks": dict.fromkeys(tasks, 0.0)}
