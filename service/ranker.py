"""The whole story of a request: lease, fetch, encode, batch, fuse, order.

Knows wire types, and no HTTP: the answer is a `Slate` of arrays, which `api.codec` turns into bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.bundle.fusion import FusionFormula, GroupLogs, fused, log_sum
from service.bundle.rows import Encoded
from service.bundle.schema import Scope
from service.engine import Inference
from service.features.brought import Brought
from service.features.features import Features
from service.model import Model
from service.registry import Registry
from service.telemetry import Telemetry
from service.wire import Candidate, RankRequest


class Slate(NamedTuple):
    """A ranked request: `N` candidates in the order they were sent, `K` of them in the answer."""

    ranker: str
    version: str
    ids: Sequence[str]
    """[N]"""
    order: NDArray[np.intp]
    """[K] positions among the candidates, the best first"""
    scores: NDArray[np.float64]
    """[N] fused; NaN where the model gave no finite number for what the formula reads"""
    tasks: Mapping[str, NDArray[np.float32]]
    """[N] by task"""
    factors: tuple[GroupLogs, ...] | None
    """each array [N]; None where not asked for"""
    degraded: tuple[str, ...]
    """stores that failed"""
    defaults: dict[str, int]
    """table -> ids that came without any features"""
    timings_ms: dict[str, float]
    """stage -> milliseconds"""


class Ranker:
    """Ranks requests with whatever version their ranker serves with now."""

    def __init__(self, registry: Registry, features: Features, telemetry: Telemetry) -> None:
        self._registry = registry
        self._features = features
        self._telemetry = telemetry

    async def rank(self, request: RankRequest, deadline: float) -> Slate:
        """The slate of a request, by `deadline` on the event loop's clock.

        Raises:
            UnknownRanker, NotReady: there is no model to rank with.
            FeatureError, FusionError: a value that this version cannot read, a formula it cannot compute.
            Overloaded, DeadlineExceeded, InferenceFailed: as `Batcher.submit`.
        """
        came = perf_counter()
        with self._registry.lease(request.ranker) as model:
            formula = self._formula(request, model)
            brought = _brought(request)
            model.batcher.admit(len(brought.item_ids), deadline)
            known, degraded = await self._features.complete(model.encoder, brought, deadline)
            fetched = perf_counter()
            encoded = known.encode(model.encoder)
            read = perf_counter()
            inference = await model.batcher.submit(encoded, deadline)
            scored = perf_counter()
            factors = formula.explain(inference.scores, _attributes(formula, model, encoded, known))
            log_scores = log_sum(factors)
            order, scores = best(log_scores, request.limit), fused(log_scores)
            slate = Slate(
                ranker=request.ranker,
                version=model.version,
                ids=known.item_ids,
                order=order,
                scores=scores,
                tasks=inference.scores,
                factors=factors if request.explain else None,
                degraded=degraded,
                defaults=_defaults(known, model, encoded),
                timings_ms=_timings(inference, came, fetched, read, scored),
            )
        self._observe(slate)
        return slate

    def _formula(self, request: RankRequest, model: Model) -> FusionFormula:
        """The request's own, else the one deployed for the ranker, else the bundle's."""
        if request.fusion is not None:
            model.check(request.fusion)
            return request.fusion
        return self._registry.fusion(request.ranker) or model.formula

    def _observe(self, slate: Slate) -> None:
        self._telemetry.slate(
            slate.ranker,
            slate.version,
            candidates=len(slate.ids),
            not_finite=_not_finite(slate),
            defaults=slate.defaults,
            timings_ms=slate.timings_ms,
            degraded=slate.degraded,
        )


def best(scores: NDArray[np.float64], limit: int | None) -> NDArray[np.intp]:
    """Positions of the best `limit` scores, or logs of scores, [K], the best first.

    Equal scores keep their order. NaN is the lowest of all: no number, no place among the others.
    """
    return (-scores).argsort(kind="stable")[:limit]


def _not_finite(slate: Slate) -> int:
    """Candidates for which the model gave something else than a finite number, of any task."""
    finite = np.isfinite(np.concatenate([*slate.tasks.values()]))
    return 0 if finite.all() else int(np.count_nonzero(~finite.reshape(-1, len(slate.ids)).all(axis=0)))


def _brought(request: RankRequest) -> Brought:
    """The request's ids, and by position the features that came with them."""
    candidates = request.candidates
    if Candidate not in set(map(type, candidates)):
        return Brought(request.user_id, request.user, request.context, cast(list[str], candidates), {})
    ids = [candidate if isinstance(candidate, str) else candidate.id for candidate in candidates]
    inline = {
        at: candidate.features
        for at, candidate in enumerate(candidates)
        if not isinstance(candidate, str) and candidate.features
    }
    return Brought(request.user_id, request.user, request.context, ids, inline)


def _attributes(
    formula: FusionFormula, model: Model, encoded: Encoded, known: Brought
) -> dict[str, NDArray[np.float64]]:
    """The item attributes [N] that a formula reads, by name."""
    rows, inline = encoded.item_row, known.inline
    return {name: model.encoder.attribute(name, rows, inline, known.items) for name in formula.attributes}


def _defaults(known: Brought, model: Model, encoded: Encoded) -> dict[str, int]:
    """How many ids came without any features that the model reads, neither stored nor in the request."""
    encoder = model.encoder
    known_user = known.user_id is None or encoded.user_row or encoder.reads(Scope.USER, known.user)
    bare = 0
    if not encoded.item_row.all():
        unknown = np.flatnonzero(encoded.item_row == 0).tolist()
        bare = sum(not encoder.reads(Scope.ITEM, known.inline.get(at, {})) for at in unknown)
    return {"users": int(not known_user), "items": bare}


def _timings(
    inference: Inference, came: float, fetched: float, read: float, scored: float
) -> dict[str, float]:
    """Milliseconds by stage; `wait` is what the batch took beyond the engine's own stages."""
    now = perf_counter()
    user, item, rank = inference.user_ms, inference.item_ms, inference.rank_ms
    return {
        "fetch": (fetched - came) * 1e3,
        "encode": (read - fetched) * 1e3,
        "wait": max(0.0, (scored - read) * 1e3 - user - item - rank),
        "user": user,
        "item": item,
        "rank": rank,
        "fuse": (now - scored) * 1e3,
        "total": (now - came) * 1e3,
    }
