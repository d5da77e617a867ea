"""mosec: HTTP, queue and batches in Rust, the model in worker processes.

    python -m benchmarks.serving.peers.with_mosec --address 127.0.0.1 --port 8000

https://mosecorg.github.io/mosec/reference/interface.html: a worker class, `num` processes of it, and where a
batch is wanted its size and how long to wait. JSON is read and written by orjson, as its own is slower.
"""

from __future__ import annotations

from typing import Any

import orjson
from mosec import Server, Worker

from benchmarks.serving.peers.scorer import MOST_REQUESTS, WAIT_S, Scorer, batching, workers


class Single(Worker):
    """A request at a time."""

    def __init__(self) -> None:
        self.scorer = Scorer.from_environment()

    def deserialize(self, data: bytes) -> Any:
        """A request."""
        return orjson.loads(data)

    def serialize(self, data: bytes) -> bytes:
        """The answer, which is JSON already."""
        return data

    def forward(self, data: Any) -> Any:
        """The answer to a request."""
        return self.scorer.rank([data])[0]


class Batched(Single):
    """Some requests at a time."""

    def forward(self, data: Any) -> Any:
        """The answers to requests."""
        return self.scorer.rank(data)


if __name__ == "__main__":
    server = Server()
    if batching():
        wait_ms = round(1e3 * WAIT_S)
        server.append_worker(
            Batched, num=workers(), max_batch_size=MOST_REQUESTS, max_wait_time=wait_ms, route="/v1/rank"
        )
    else:
        server.append_worker(Single, num=workers(), route="/v1/rank")
    server.run()
