"""Takes callers from the listening socket that the workers share, so that each has as many as the others.

Left to the kernel, whichever worker wakes first takes a caller, and one may get most of those that keep
their connections alive while the others' cores idle. So a worker that has more connections than another
leaves a caller to that one; for a moment only, as a worker that hangs must not strand anybody. From then on
nobody is left to it, until its beat shows that it lives. No worker that lives then gets more than one
connection beyond another, without a lock: nobody takes a caller who is not among those that had the fewest.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable

from service.tally import AWAY, Tally

PAUSE_S = 0.001
"""Between two looks at whether a caller that was left to another worker has been taken."""
PATIENCE = 50
"""So many looks. Not seconds: where the whole machine is short of time, looks are rarer, too."""
UNEVEN = 2
"""Connections come and go by themselves, too: not every difference is worth a new connection."""
BEAT_S = 0.1
"""Between two signs of life."""
NO_ROOM_S = 0.5
"""After the system had no room for another connection."""

logger = logging.getLogger(__name__)


class Door:
    """One worker's way in.

    Args:
        listener: the socket that the workers share, now this one's to close.
        tally: what every worker has.
        worker: which of them this one is.
        welcome: makes a connection of a socket; OSError where the caller has left again.
        patience: how many looks a caller is left to a worker that has fewer.
        on_change: told how many connections this worker has.
    """

    def __init__(
        self,
        listener: socket.socket,
        tally: Tally,
        worker: int,
        welcome: Callable[[socket.socket], Awaitable[object]],
        *,
        patience: int = PATIENCE,
        on_change: Callable[[int], None] | None = None,
    ) -> None:
        self._listener, self._tally, self._worker, self._welcome = listener, tally, worker, welcome
        self._patience, self._on_change = patience, on_change
        self._count = 0
        self._open = False
        self._hung: dict[int, int] = {}  # with its beats when it was found so
        self._return: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[None]] = set()
        self._callers = select.poll()

    def open(self) -> None:
        """Begin to take callers, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._callers.register(self._listener, select.POLLIN)
        self._open = True
        self._changed(0)
        self._beat()
        self._watch()
        logger.info("worker %d takes callers", self._worker)

    async def close(self) -> None:
        """Take those that wait, whom the port would reset as it closes with the last worker; then nobody."""
        if not self._open:
            return
        while self._take():
            pass
        self._loop.remove_reader(self._listener)
        if self._return is not None:
            self._return.cancel()
        self._next_beat.cancel()
        self._open = False
        self._tally[self._worker] = AWAY
        self._listener.close()
        await asyncio.gather(*self._arriving)

    def left(self) -> None:
        """A connection of this worker's has ended."""
        self._changed(-1)

    def crowded(self) -> bool:
        """Has another worker fewer by more than `UNEVEN`, so that connections are better off there?"""
        return self._count > self._fewest() + UNEVEN

    def _beat(self) -> None:
        self._tally.beat(self._worker)
        self._next_beat = self._loop.call_later(BEAT_S, self._beat)

    def _watch(self) -> None:
        self._return = None
        self._loop.add_reader(self._listener, self._called)

    def _called(self) -> None:
        """A caller waits: take it, or leave it to a worker that has fewer."""
        if self._count > self._fewest():
            self._loop.remove_reader(self._listener)  # which would call again at once
            self._return = self._loop.call_later(PAUSE_S, self._look, self._patience)
        else:
            self._take()

    def _look(self, patience: int) -> None:
        """A caller was left to others. Go on so, or take it if none of them does."""
        if self._count <= self._fewest() or not self._callers.poll(0):
            self._watch()
        elif patience:
            self._return = self._loop.call_later(PAUSE_S, self._look, patience - 1)
        else:
            others = self._tally.others(self._worker).items()
            self._hung = {other: self._tally.beats(other) for other, count in others if count < self._count}
            self._watch()

    def _fewest(self) -> int:
        """What the worker has that has the fewest, but for those that have not beaten since they hung."""
        others = self._tally.others(self._worker).items()
        living = (count for other, count in others if self._hung.get(other) != self._tally.beats(other))
        return min(living, default=self._count)

    def _take(self) -> bool:
        """Take one caller; false where there is none."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another worker was faster, or the caller has left
            return False
        except OSError as error:
            logger.error("cannot take a caller: %s", error)
            self._loop.remove_reader(self._listener)
            self._return = self._loop.call_later(NO_ROOM_S, self._watch)
            return False
        self._changed(+1)
        task = self._loop.create_task(self._receive(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        return True

    async def _receive(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await self._welcome(connection)
        except OSError:  # it has left already
            connection.close()
            self._changed(-1)

    def _changed(self, by: int) -> None:
        self._count += by
        if self._open:
            self._tally[self._worker] = self._count
        if self._on_change is not None:
            self._on_change(self._count)
