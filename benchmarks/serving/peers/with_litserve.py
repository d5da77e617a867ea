"""LitServe: FastAPI before, the model in worker processes, requests and answers through a queue.

    python -m benchmarks.serving.peers.with_litserve 8000

https://lightning.ai/docs/litserve: `workers_per_device` processes, `max_batch_size` and `batch_timeout`, and
`fast_queue` for high rates. A worker encodes the answer itself and hands over a response of bytes.
"""

# LitServe reads annotations, and takes none that are text: no `from __future__ import annotations` here.
import sys
from collections.abc import Sequence
from typing import Any

import litserve
from fastapi import Request, Response

from benchmarks.serving.peers.scorer import MOST_REQUESTS, WAIT_S, Scorer, batching, workers


class Ranking(litserve.LitAPI):
    """What the workers run."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.scorer = Scorer.from_environment()

    def decode_request(self, request: Request) -> Any:
        """It is JSON, and read by now, whatever the annotation says."""
        return request

    def batch(self, inputs: Sequence[Any]) -> Any:
        """Requests stay a list."""
        return inputs

    def predict(self, x: Any) -> Any:
        """The answer to a request, or the answers to a list of them."""
        return self.scorer.rank(x) if isinstance(x, list) else self.scorer.rank([x])[0]

    def unbatch(self, output: Any) -> Any:
        """An answer a request."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """As it is."""
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    size, wait_s = (MOST_REQUESTS, WAIT_S) if batching() else (1, 0.0)
    api = Ranking(max_batch_size=size, batch_timeout=wait_s, api_path="/v1/rank")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers(), fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
