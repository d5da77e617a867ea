"""One generator: sends every request when it is due, whatever became of others, and notes what came of it.

Latency counts from when a request was due. So it holds the wait for a connection if all are in use, and the
generator's own lateness, which is noted apart, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.loadtest.client import NotHttp, Pool
from service.loadtest.measured import LATE, NOT_SENT, SAMPLES, TIMEOUT, Measured, Window
from service.loadtest.plan import Load

clock = time.monotonic
"""The same in every process of a machine, and finer than the event loop's."""


SHORTEST_S = 0.01
"""Less time than this is too little for the clock of the CPU."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one generator holds itself to."""

    connections: int
    in_flight: int
    """requests that are due and not over; one more is not sent"""
    timeout_s: float
    """an answer that comes so long after its request was due is not waited for"""


class Run:
    """One load, once.

    Args:
        pool: connections.
        messages: whole requests, without end.
        bounds: what to hold to.
        load: the whole load, of which this generator sends `due`.
    """

    def __init__(self, pool: Pool, messages: Iterator[bytes], bounds: Bounds, load: Load) -> None:
        self._pool, self._messages, self._bounds, self._load = pool, messages, bounds, load
        self._start = 0.0
        self._in_flight = 0
        self.measured = Measured.nothing(load)

    async def all(self, start: float, due: NDArray[np.float64], tell: Callable[[Measured], None]) -> Measured:
        """Send everything, and wait until all is over: at most the duration and the time limit of a request.

        Args:
            start: by `time.monotonic`.
            due: seconds from the start, ascending.
            tell: called now and then with what there is so far.
        """
        self._start = start
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(tell))
            await _until(start)
            begun, cpu = clock(), time.process_time()
            for at in due.tolist():
                await _until(start + at)
                self._send(group, at)
            # While requests were due: the wait for the last answers would dilute it.
            self.measured.cpu = [(time.process_time() - cpu) / max(clock() - begun, SHORTEST_S)]
        return self.measured

    def _send(self, group: asyncio.TaskGroup, at: float) -> None:
        window = self.measured.windows[self._load.window(at)]
        window.planned += 1
        late = clock() - self._start - at
        self.measured.lateness.record(late)
        if late >= self._bounds.timeout_s:
            self.measured.fail(window, LATE)
        elif self._in_flight >= self._bounds.in_flight:
            self.measured.fail(window, NOT_SENT)
        else:
            self._in_flight += 1
            group.create_task(self._ask(window, self._start + at, next(self._messages)))

    async def _ask(self, window: Window, planned: float, message: bytes) -> None:
        """See a request through."""
        turned = clock()
        sent: list[float] = []
        try:
            async with asyncio.timeout(planned + self._bounds.timeout_s - turned):
                answer = await self._pool.ask(message, sent.append)
        except TimeoutError:
            self.measured.fail(window, TIMEOUT, clock() - planned)
        except ConnectionRefusedError:
            self.measured.fail(window, "refused", clock() - planned)
        except ConnectionError:
            self.measured.fail(window, "reset", clock() - planned)
        except OSError as error:
            self.measured.fail(window, f"cannot connect: {error.strerror or error}", clock() - planned)
        except NotHttp:
            self.measured.fail(window, "no HTTP", clock() - planned)
        else:
            in_time = answer.at <= self._start + self._load.duration_s
            self.measured.answer(window, answer, answer.at - planned, in_time=in_time)
        finally:
            self.measured.queueing.record((sent[0] if sent else clock()) - turned)
            self._in_flight -= 1

    async def _watch(self, tell: Callable[[Measured], None]) -> None:
        """Note the backlog at equal distances, until the last request is due."""
        for sample in range(1, SAMPLES + 1):
            await _until(self._start + sample * self._load.duration_s / SAMPLES)
            self.measured.backlog[sample] = self._in_flight
            tell(self.measured)


async def _until(moment: float) -> None:
    """Wait for a moment; at least one turn of the loop, for answers come in even when the generator is late.

    The loop's timers count milliseconds: what is left of the last one goes by in turns of the loop.
    """
    while True:
        await asyncio.sleep(max(0.0, moment - clock()))
        if clock() >= moment:
            return
