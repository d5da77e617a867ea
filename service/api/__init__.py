"""HTTP, and nothing else: what the service does, as bytes and statuses. A module a group of routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

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
    ranker: Ranker
    versions: Versions
    check: Check
    """proves that a version loads, where no worker does"""
    draining: bool = field(default=False, init=False)

    def drain(self) -> None:
        """Be unready from now on; go on to answer."""
        self.draining = True


async def serving(request: Request) -> Serving:
    """The process's `Serving`, for routes. A coroutine: FastAPI would send a plain function to a thread."""
    found: Serving = request.app.state.serving
    return found


WithServing = Annotated[Serving, Depends(serving)]
