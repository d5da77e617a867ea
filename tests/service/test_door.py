"""The door of a worker: whom it takes, and whom it leaves to others."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from service import door
from service.door import Door
from service.supervisor import listen
from service.tally import AWAY, Tally, make

NEVER = 10**9
"""A patience that no test outlives."""


@dataclass
class Workers:
    """Doors of several workers, all on this loop, and the callers before them."""

    port: int
    tally: Tally
    doors: list[Door] = field(default_factory=list)
    welcomed: list[list[socket.socket]] = field(default_factory=list)
    callers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def counts(self) -> list[int]:
        """Connections by worker."""
        return [len(connections) for connections in self.welcomed]

    async def call(self) -> None:
        """One caller; nobody need have taken it yet."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.callers.append(writer)


@asynccontextmanager
async def workers(
    count: int, *, doors: int | None = None, patience: int = NEVER, welcome: Callable[[], None] = lambda: None
) -> AsyncIterator[Workers]:
    """So many workers in the tally, of which the first `doors` (None: all) have one here."""
    memory, listener = make(count), listen("127.0.0.1", 0)
    found = Workers(listener.getsockname()[1], Tally(memory))
    os.close(memory)
    async with AsyncExitStack() as stack:
        for worker in range(count if doors is None else doors):
            mine: list[socket.socket] = []

            async def take(connection: socket.socket, mine: list[socket.socket] = mine) -> None:
                welcome()
                mine.append(connection)
                stack.callback(connection.close)

            found.welcomed.append(mine)
            found.doors.append(Door(listener.dup(), found.tally, worker, take, patience=patience))
            found.doors[-1].open()
            stack.push_async_callback(found.doors[-1].close)
        listener.close()
        yield found
        for writer in found.callers:
            writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  whatever it is, it has no event
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("count", "callers"), [(2, 4), (2, 8), (3, 7), (5, 30)])
async def test_every_worker_gets_its_share(count: int, callers: int, together: bool) -> None:
    """No worker has more than one connection beyond another, however they come."""
    async with workers(count) as running:
        if together:
            await asyncio.gather(*(running.call() for _ in range(callers)))
            await until(lambda: sum(running.counts) == callers)
        else:
            for number in range(callers):
                await running.call()
                await until(lambda number=number: sum(running.counts) == number + 1)  # type: ignore[misc]
                assert max(running.counts) - min(running.counts) <= 1
        assert max(running.counts) - min(running.counts) <= 1
        assert running.counts == [running.tally[worker] for worker in range(count)]


async def test_who_ends_a_connection_has_room() -> None:
    """Callers go to the worker whose connections have ended, until all are even again."""
    async with workers(2) as running:
        for _ in range(6):
            await running.call()
        await until(lambda: running.counts == [3, 3])
        for _ in range(3):
            running.doors[1].left()
        for _ in range(3):
            await running.call()
        await until(lambda: running.counts == [3, 6])


@pytest.mark.parametrize("theirs", [AWAY, 1])
async def test_nobody_is_left_to_a_worker_that_is_away_or_has_as_many(theirs: int) -> None:
    """One that starts, drains or died takes nobody; the wait for it would have no end here."""
    async with workers(2, doors=1) as running:
        running.tally[1] = theirs
        await running.call()
        await until(lambda: running.counts == [1])
        await running.call()
        await until(lambda: running.counts == [2])


@asynccontextmanager
async def beside_a_hung_one() -> AsyncIterator[Workers]:
    """A worker that has taken four callers, one after another, beside one that has none and takes none."""
    async with workers(2, doors=1, patience=3) as running:
        running.tally[1] = 0
        for number in range(1, 5):
            await running.call()
            await until(lambda number=number: running.counts == [number])  # type: ignore[misc]
        yield running


async def test_a_worker_that_hangs_strands_nobody() -> None:
    """Who is left to it and not taken is taken after all, and the next ones are not left to it again."""
    async with beside_a_hung_one() as running:
        assert not running.doors[0].crowded()


async def test_a_worker_that_hung_and_beats_gets_callers_again() -> None:
    """It is alive, and has fewer: as many as when it hung."""
    async with beside_a_hung_one() as running:
        assert not running.doors[0].crowded()
        running.tally.beat(1)
        assert running.doors[0].crowded()


async def test_an_open_door_beats() -> None:
    """Whether callers come or not; not when it is closed."""
    async with workers(1) as running:
        await until(lambda: running.tally.beats(0) >= 3)
        await running.doors[0].close()
        beaten = running.tally.beats(0)
        await asyncio.sleep(2 * door.BEAT_S)
        assert running.tally.beats(0) == beaten


async def test_a_worker_is_crowded_that_has_three_more_than_another() -> None:
    """Who is away has no room."""
    async with workers(3, doors=1) as running:
        for number in range(1, 4):
            await running.call()
            await until(lambda number=number: running.counts == [number])  # type: ignore[misc]
        for others, crowded in [((AWAY, AWAY), False), ((1, 5), False), ((AWAY, 0), True), ((0, 9), True)]:
            running.tally[1], running.tally[2] = others
            assert running.doors[0].crowded() == crowded


async def test_a_closed_door_has_taken_those_who_waited() -> None:
    """They would be reset as the port closes. The worker is away then, whatever ends later."""
    async with workers(2, doors=1) as running:
        await running.call()
        await until(lambda: running.counts == [1])
        running.tally[1] = 0  # so that the next ones are left to it
        for _ in range(3):
            await running.call()
        await running.doors[0].close()
        assert running.counts == [4]
        running.doors[0].left()
        assert running.tally[0] == AWAY
        with pytest.raises(ConnectionRefusedError):
            await running.call()


async def test_a_caller_that_left_is_not_counted() -> None:
    """Accepted by the system, gone before it became a connection."""
    gone = iter([True])

    def welcome() -> None:
        if next(gone, False):
            raise ConnectionResetError

    async with workers(1, welcome=welcome) as running:
        await running.call()
        await running.call()
        await until(lambda: running.counts == [1])
        await until(lambda: running.tally[0] == 1)


class Full:
    """A listening socket of a process that has no descriptors left, for the first calls."""

    def __init__(self, listener: socket.socket, refusals: int) -> None:
        self.fileno, self.setblocking, self.close = listener.fileno, listener.setblocking, listener.close
        self.getsockname = listener.getsockname
        self._listener, self._refusals = listener, refusals

    def accept(self) -> tuple[socket.socket, object]:
        """Fails as `accept(2)` does."""
        if self._refusals:
            self._refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()


async def test_without_room_for_a_connection_it_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once a try, and not in a loop that takes the core; the caller is taken when there is room."""
    monkeypatch.setattr(door, "NO_ROOM_S", 0.01)
    memory, taken = make(1), []

    async def welcome(connection: socket.socket) -> None:
        taken.append(connection)

    listener = Full(listen("127.0.0.1", 0), refusals=2)
    mine = Door(listener, Tally(memory), 0, welcome)  # type: ignore[arg-type]
    mine.open()
    with socket.create_connection(listener.getsockname()):
        await until(lambda: len(taken) == 1)
    await mine.close()
    os.close(memory)
    for connection in taken:
        connection.close()
    assert caplog.text.count("cannot take a caller") == 2
