"""How long a request is worked on: until its deadline, or until its caller has left."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.errors import DeadlineExceeded

WATCHED_AFTER_S = 0.01
"""Most are answered before it would be of use to know that their caller has left."""


class Patience:
    """Cancels what is inside when it is of no use any more, so that its place in the queue is free at once.

    Most requests need one timer of it and no more. `asyncio.timeout_at`, a timer for the caller, and one more
    while the body is read would take several times as long.

    Args:
        deadline: by which the body must be there, on the event loop's clock.

    Raises:
        DeadlineExceeded: the deadline has passed.
        ClientDisconnect: the caller left.
    """

    def __init__(self, deadline: float) -> None:
        self._receive: Receive | None = None
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._watcher: asyncio.Task[None] | None = None
        self._ended: Exception | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._look_at(self._soon())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # What others have cancelled, too, stays so.
        if self._ended is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._ended from None

    def watch(self, receive: Receive, deadline: float) -> None:
        """The body has been read: look for its caller leaving from now on, and this is the deadline."""
        self._receive, self._deadline = receive, deadline
        if (soon := self._soon()) < self._looks_at:
            self._timer.cancel()
            self._look_at(soon)

    def _soon(self) -> float:
        return min(self._deadline, self._loop.time() + WATCHED_AFTER_S)

    def _look_at(self, when: float) -> None:
        self._looks_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """It takes its time: watch it from now on, or end it."""
        if self._deadline <= self._looks_at:
            late = "the deadline passed before the body was there; send it faster"
            self._end(DeadlineExceeded() if self._receive else DeadlineExceeded(late))
            return
        if self._receive is not None:
            self._watcher = self._loop.create_task(self._watch(self._receive))
        self._look_at(self._deadline)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._end(ClientDisconnect())

    def _end(self, why: Exception) -> None:
        if self._ended is None:
            self._ended = why
            self._task.cancel()
