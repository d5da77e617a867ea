"""BentoML: a service class, validated arguments, worker processes, and adaptive batches.

    bentoml serve benchmarks.serving.peers.with_bentoml:Single --host 127.0.0.1 --port 8000

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html: a batched API takes one list, so a
service before it takes the request and depends on the service that holds the model.
"""

from __future__ import annotations

from typing import Any

import bentoml
from starlette.responses import Response

from benchmarks.serving.peers.scorer import MOST_REQUESTS, Scorer, workers

QUIET: Any = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}
MOST_LATENCY_MS = 1000
"""beyond which a request is refused; BentoML learns by itself how long a batch may wait"""


@bentoml.service(workers=workers(), **QUIET)
class Single:
    """A request at a time."""

    def __init__(self) -> None:
        self.scorer = Scorer.from_environment()

    @bentoml.api(route="/v1/rank")
    def rank(self, user_id: str, candidates: list[str], tasks: bool = False) -> Any:
        """The answer to a request."""
        (answer,) = self.scorer.rank([{"user_id": user_id, "candidates": candidates}])
        return Response(answer, media_type="application/json")


@bentoml.service(workers=workers(), **QUIET)
class Scores:
    """Some requests at a time."""

    def __init__(self) -> None:
        self.scorer = Scorer.from_environment()

    @bentoml.api(batchable=True, max_batch_size=MOST_REQUESTS, max_latency_ms=MOST_LATENCY_MS)
    def rank(self, requests: list[dict[str, Any]]) -> list[bytes]:
        """The answers to requests."""
        return self.scorer.rank(requests)


@bentoml.service(workers=1, **QUIET)
class Batched:
    """Takes a request and leaves it to a batch."""

    scores = bentoml.depends(Scores)

    @bentoml.api(route="/v1/rank")
    async def rank(self, user_id: str, candidates: list[str], tasks: bool = False) -> Any:
        """The answer to a request."""
        (answer,) = await self.scores.to_async.rank([{"user_id": user_id, "candidates": candidates}])
        return Response(answer, media_type="application/json")
