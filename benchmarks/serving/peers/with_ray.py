"""Ray Serve: an HTTP proxy, and replicas of a deployment as actors.

    python -m benchmarks.serving.peers.with_ray 8000

https://docs.ray.io/en/latest/serve/advanced-guides: `num_replicas` with a core each, `serve.batch`, and
RAY_SERVE_THROUGHPUT_OPTIMIZED=1, which its guide to high throughput names. The other setting that it names, a
HAProxy before the replicas, listens on every interface of the machine and is left out here.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.serving.peers.scorer import MOST_REQUESTS, WAIT_S, Scorer, batching, workers

MOST_ONGOING = 64
"""requests that a replica takes; with the default of 5 no batch could be larger"""


class Single:
    """A request at a time."""

    def __init__(self) -> None:
        self.scorer = Scorer.from_environment()

    async def __call__(self, request: Request) -> Response:
        """The answer to a request."""
        (answer,) = self.scorer.rank([orjson.loads(await request.body())])
        return Response(answer, media_type="application/json")


class Batched:
    """Some requests at a time."""

    def __init__(self) -> None:
        self.scorer = Scorer.from_environment()

    @serve.batch(max_batch_size=MOST_REQUESTS, batch_wait_timeout_s=WAIT_S)
    async def rank(self, requests: list[Any]) -> list[bytes]:
        """The answers to requests."""
        return self.scorer.rank(requests)

    async def __call__(self, request: Request) -> Response:
        """The answer to a request."""
        answer: Any = await self.rank(orjson.loads(await request.body()))
        return Response(answer, media_type="application/json")


if __name__ == "__main__":
    ray.init(num_cpus=workers(), include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(sys.argv[1])))
    deployment = serve.deployment(
        num_replicas=workers(), max_ongoing_requests=MOST_ONGOING, ray_actor_options={"num_cpus": 1}
    )
    serve.run(deployment(Batched if batching() else Single).bind(), route_prefix="/v1/rank")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
