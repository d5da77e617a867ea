"""HTTP, and nothing else: what the service does, as bytes and statuses. A module a group of routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from service.errors import NotReady
from service.features.features import Features
from service.promotion import Check
from service.ranker import Ranker
from service.registry import Registry
from service.settings import Settings
from service.telemetry import Telemetry
from service.versions import Versions


@dataclass(slots=True)
class Serving:
    """What every route stands on; one in a process, as `app.state.serving`."""

    settings: Settings
    telemetry: Telemetry
    registry: Registry
    features: Features
    ranker: Ranker
    versions: Versions
    check: Check
    """proves that a version loads, where no worker does"""
    draining: bool = field(default=False, init=False)
    _operations: set[asyncio.Task[object]] = field(default_factory=set, init=False)

    def drain(self) -> None:
        """Be unready from now on; go on to answer requests, and cancel operations, which may take minutes."""
        self.draining = True
        for operation in self._operations:
            operation.cancel()

    @contextmanager
    def operation(self) -> Iterator[None]:
        """What is inside ends when draining begins.

        Raises:
            NotReady: draining has begun.
        """
        task = asyncio.current_task()
        assert task is not None
        refusal = NotReady("this worker is about to end; send the operation again")
        if self.draining:
            raise refusal
        self._operations.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.draining and task.uncancel() == 0:
                raise refusal from None
            raise
        finally:
            self._operations.discard(task)


async def serving(request: Request) -> Serving:
    """The process's `Serving`, for routes. A coroutine: FastAPI would send a plain function to a thread."""
    found: Serving = request.app.state.serving
    return found


WithServing = Annotated[Serving, Depends(serving)]
