"""What an answer says beside its columns, in whatever form. Tests hold the whole against `RankResponse`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from service.bundle.fusion import GroupLogs
from service.ranker import Slate


def about(slate: Slate, request_id: str) -> dict[str, Any]:
    """All of a `RankResponse` but its items."""
    return {
        "request_id": request_id,
        "ranker": slate.ranker,
        "version": slate.version,
        "degraded": slate.degraded,
        "defaults": slate.defaults,
        "timings_ms": {stage: round(ms, 3) for stage, ms in slate.timings_ms.items()},
    }


def factors(slate: Slate) -> Iterator[list[dict[str, Any]]]:
    """By item in order, every group of the formula; nothing where they were not asked for."""
    if slate.factors is not None:
        for at in slate.order.tolist():
            yield [_group(group, at) for group in slate.factors]


def _group(group: GroupLogs, at: int) -> dict[str, Any]:
    return {
        "log_weight": group.log_weight,
        "log_score": _number(group.log_score[at]),
        "factors": [
            {"name": name, "log": _number(log)}
            for name, log in zip(group.names, group.logs[:, at].tolist(), strict=True)
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
