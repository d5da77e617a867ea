"""Plain FastAPI, as most write it first: a pydantic request, the model run in the handler, two processes.

    uvicorn benchmarks.serving.peers.with_fastapi:create --factory --workers 2 --loop uvloop

The handler blocks its event loop: all it does is compute, and on a CPU threads beside it only take turns.
FastAPI gathers no batches.
"""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel

from benchmarks.serving.peers.scorer import Scorer


class RankRequest(BaseModel):
    """A request."""

    user_id: str
    candidates: list[str]
    tasks: bool = False


def create() -> FastAPI:
    """The application of one process."""
    app, scorer = FastAPI(), Scorer.from_environment()

    @app.post("/v1/rank")
    async def rank(request: RankRequest) -> Response:
        # Bytes by orjson: the framework's own encoder would look at every number again.
        (answer,) = scorer.rank([request.model_dump()])
        return Response(answer, media_type="application/json")

    return app
