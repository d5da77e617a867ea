"""Several generators, a process each: one core sends only so many requests a second.

They live as long as the block that started them, so that many loads need their bodies made, and their
connections opened, once. What goes between the processes is JSON.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import orjson
import uvloop

from service.loadtest.client import Pool, Target
from service.loadtest.errors import LoadTestError
from service.loadtest.measured import Measured
from service.loadtest.plan import Load, Requests
from service.loadtest.run import Bounds, Run

BODIES = 4_000
BODY_BYTES = 64 * 2**20
"""A generator makes so many different bodies ahead, or so many bytes of them, and sends them in turn."""
START_LIMIT_S = 120.0
LEAD_S = 0.1
"""From telling the generators to the start."""
END_LIMIT_S = 5.0
GRACE_S = 20.0
"""A generator that has said nothing so long after it must be done is not waited for."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all generators need, and no more than that."""

    target: Target
    requests: Requests
    bounds: Bounds
    """of each"""
    processes: int
    seed: int
    bodies: int = BODIES


Tell = Callable[[int, int, int], None]
"""Hears how many requests were due so far, were answered, and failed."""


class Generators:
    """Processes that are ready to send.

    Raises:
        LoadTestError: one of them ended, or hung.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._processes: dict[Connection, BaseProcess] = {}
        self._idle = False
        """all wait for an order, and so will see that their pipe is closed"""

    def __enter__(self) -> Generators:
        # Spawned: a fork would copy the locks of its parent's threads, and whoever holds them not.
        spawn = multiprocessing.get_context("spawn")
        try:
            for part in range(self._setup.processes):
                ours, theirs = spawn.Pipe()
                process = spawn.Process(target=generate, args=(theirs, self._setup, part), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
            for pipe in self._processes:
                self._hear([pipe], time.monotonic() + START_LIMIT_S)
            self._idle = True
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._processes:
            pipe.close()
        for process in self._processes.values():
            if self._idle:
                process.join(END_LIMIT_S)
            process.terminate()
            process.join()

    def run(self, load: Load, tell: Tell) -> Measured:
        """One load from all of them, and what they found, added up.

        `tell` is called now and then with how far they are.
        """
        self._idle = False
        order = orjson.dumps({"load": asdict(load), "start": time.monotonic() + LEAD_S})
        for pipe in self._processes:
            with suppress(BrokenPipeError):  # that it has ended is heard below
                pipe.send_bytes(order)
        patience = time.monotonic() + load.duration_s + self._setup.bounds.timeout_s + GRACE_S
        waiting, whole = set(self._processes), Measured.nothing(load)
        progress = dict.fromkeys(waiting, (0, 0, 0))
        while waiting:
            pipe, said = self._hear(waiting, patience)
            if "progress" in said:
                progress[pipe] = said["progress"]
                tell(*map(sum, zip(*progress.values(), strict=True)))
            else:
                whole.add(Measured.decode(said["measured"]))
                waiting.discard(pipe)
        self._idle = True
        return whole

    def _hear(self, pipes: Collection[Connection], patience: float) -> tuple[Connection, Any]:
        """The next that one of them says."""
        for pipe in connection.wait(pipes, max(0.0, patience - time.monotonic())):
            assert isinstance(pipe, Connection)
            try:
                return pipe, orjson.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                process = self._processes[pipe]
                process.join(1)
                raise LoadTestError(f"a generator process ended with {process.exitcode}") from None
        raise LoadTestError("a generator process hangs; give the machine less to do, or lower --rate")


def generate(pipe: Connection, setup: Setup, part: int) -> None:
    """The life of a generator: make bodies, open connections, run what is ordered until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first ends the others
    uvloop.run(_serve(pipe, setup, part))


async def _serve(pipe: Connection, setup: Setup, part: int) -> None:
    messages = cycle(_messages(setup, part))
    async with Pool(setup.target, setup.bounds.connections) as pool:
        await pool.open()
        _say(pipe, {"ready": True})
        try:
            while order := orjson.loads(await asyncio.to_thread(pipe.recv_bytes)):
                load = Load(**order["load"])
                run = Run(pool, messages, setup.bounds, load)

                def tell(so_far: Measured) -> None:
                    _say(pipe, {"progress": (so_far.planned, so_far.answered, so_far.failed)})

                measured = await run.all(order["start"], load.due(part, setup.processes), tell)
                _say(pipe, {"measured": measured.encode()})
        except* (EOFError, ConnectionError):
            pass  # nobody is there to hear any more: of a run's own tasks one found out, or this one


def _messages(setup: Setup, part: int) -> list[bytes]:
    """What this generator sends, in turn: made ahead, as a request that is due must not wait for it."""
    messages: list[bytes] = []
    room = BODY_BYTES
    for body in islice(setup.requests.bodies(setup.seed, part), setup.bodies):
        messages.append(setup.target.message("POST", "/v1/rank", body))
        if (room := room - len(body)) < 0:
            break
    return messages


def _say(pipe: Connection, what: dict[str, object]) -> None:
    pipe.send_bytes(orjson.dumps(what))
