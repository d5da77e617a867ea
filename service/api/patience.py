"""How long a request is worked on: until its deadline, or until its caller has left."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive

WATCHED_AFTER_S = 0.01
"""Most are answered before it would be of use to know that their caller has left."""


class Patience:
    """Cancels what is inside when it is of no use any more, so that its place in the queue is free at once.

    Most requests need one timer of it and no more, which takes less than half as long as `asyncio.timeout_at`
    and a timer for the caller.

    Args:
        receive: of the request, whose body has been read.
        deadline: on the event loop's clock.

    Raises:
        TimeoutError: the deadline has passed.
        ClientDisconnect: the caller left.
    """

    def __init__(self, receive: Receive, deadline: float) -> None:
        self._receive, self._deadline = receive, deadline
        self._loop = asyncio.get_running_loop()
        self._watcher: asyncio.Task[None] | None = None
        self._ended: Exception | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = self._loop.call_at(min(self._deadline, self._loop.time() + WATCHED_AFTER_S), self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        # What others have cancelled, too, stays so.
        if self._ended is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._ended from None

    def _look(self) -> None:
        """It takes its time: watch it from now on, or end it."""
        if self._loop.time() < self._deadline:
            self._watcher = self._loop.create_task(self._watch())
            self._timer = self._loop.call_at(self._deadline, self._end, TimeoutError())
        else:
            self._end(TimeoutError())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(ClientDisconnect())

    def _end(self, why: Exception) -> None:
        if self._ended is None:
            self._ended = why
            self._task.cancel()
