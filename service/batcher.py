"""Entries become batches of rows while the engine is busy.

No timer forms batches: an idle engine takes an entry at once, and what queues while it runs is the next
batch, cut by rows and by entries, first come first served. All but `_call` happens on the event loop, and
nothing there waits: `_advance` gives out work, `_finished` hands out its answers and advances again.

Knows nothing of HTTP, models or features: an entry is opaque, `rows` says how much work it is, `run` does it.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

from service.errors import DeadlineExceeded, NotReady, Overloaded

E = TypeVar("E")
R = TypeVar("R")
Outcome = tuple[list[R] | Exception, float]  # results or why there are none; seconds

logger = logging.getLogger(__name__)
_MEMORY = 0.9  # of the mean of seconds a row: what a run's weight shrinks to with every later run
_UNMEASURED_S = 1.0  # when to come back, as long as no run has been timed


@dataclass(frozen=True, slots=True)
class BatchRun:
    """One call of `run`: its size, how long its oldest entry had waited, how long it took, how it ended."""

    entries: int
    rows: int
    queue_s: float
    run_s: float
    failed: bool


@dataclass(slots=True, eq=False)
class _Waiting(Generic[E, R]):
    """An entry with the future of its own answer: no table of ids, and "the client left" is one check."""

    entry: E
    rows: int
    deadline: float
    since: float
    future: asyncio.Future[R]
    timer: asyncio.TimerHandle | None = None

    def answer(self, result: R) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def alive(self, now: float) -> bool:
        """Whether to run it; one whose deadline has passed is told so."""
        if self.deadline <= now:
            self.fail(DeadlineExceeded())
        return not self.future.done()


class Batcher(Generic[E, R]):
    """Runs entries in batches, one batch at a time; belongs to one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[E]], Sequence[R]],
        rows: Callable[[E], int],
        executor: Executor,
        *,
        max_rows: int,
        max_entries: int,
        max_queued_rows: int,
        observe: Callable[[BatchRun], None] | None = None,
    ) -> None:
        """`run` gives a result an entry, in order; it is called in `executor`, which stays the caller's.

        A batch has at most `max_entries` entries and `max_rows` rows; an entry of more rows runs alone.
        `observe` is told of every run.
        """
        if min(max_rows, max_entries, max_queued_rows) < 1:
            raise ValueError("max_rows, max_entries and max_queued_rows must be at least 1")
        self._run, self._rows, self._executor, self._observe = run, rows, executor, observe
        self._max_rows, self._max_entries, self._max_queued_rows = max_rows, max_entries, max_queued_rows
        self._queue: OrderedDict[_Waiting[E, R], None] = OrderedDict()
        self._queued_rows = 0
        self._halves: list[list[_Waiting[E, R]]] = []  # of a batch that failed, the next to run last
        self._running: list[_Waiting[E, R]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False
        self._timed_rows = self._timed_s = 0.0

    @property
    def pending_entries(self) -> int:
        """Entries that wait for the engine."""
        return len(self._queue)

    @property
    def pending_rows(self) -> int:
        """Rows that wait for the engine: what admission goes by."""
        return self._queued_rows

    async def submit(self, entry: E, deadline: float) -> R:
        """The entry's own result, or the error that `run` raised for it alone.

        `deadline` is a time of the loop's clock by which the entry must have begun to run: DeadlineExceeded
        where it has not, Overloaded where no more rows may wait, NotReady after `drain` or `close`.
        """
        waiting = self._enqueue(entry, deadline)
        self._advance()
        try:
            return await waiting.future
        finally:
            self._leave(waiting)  # cancelled, expired or closed: its rows are free

    def admit(self, rows: int) -> None:
        """Raise NotReady or Overloaded where `submit` would, for an entry of so many rows.

        To be asked before an entry is made, so that one that is refused costs nothing.
        """
        if self._refusing:
            raise NotReady("the model takes no more requests; send it again")
        if self._running and self._queued_rows + rows > self._max_queued_rows:
            raise Overloaded(self._retry_after_s())

    async def drain(self) -> None:
        """Refuse new entries; return when the others have their answers and the engine is idle."""
        self._refusing = True
        await self._idle.wait()

    def close(self) -> None:
        """Refuse new entries and fail the others; `drain` then waits for the run under way, if any."""
        self._refusing = True
        for waiting in chain(self._running, *self._halves, self._queue):
            waiting.fail(NotReady("the model was closed before it had ranked this request; send it again"))

    def _enqueue(self, entry: E, deadline: float) -> _Waiting[E, R]:
        """The entry at the end of the queue. What goes wrong on the way there is its own trouble only."""
        loop, rows = asyncio.get_running_loop(), self._rows(entry)
        if not rows >= 1:
            raise ValueError(f"rows(entry) must be at least 1, got {rows}")
        if not deadline > (now := loop.time()):  # not a number is no deadline either
            raise DeadlineExceeded
        self.admit(rows)
        waiting: _Waiting[E, R] = _Waiting(entry, rows, deadline, now, loop.create_future())
        if self._running:
            waiting.timer = loop.call_at(deadline, waiting.fail, DeadlineExceeded())
        self._queue[waiting] = None
        self._queued_rows += rows
        return waiting

    def _leave(self, waiting: _Waiting[E, R]) -> None:
        """Out of the queue, if it is still there."""
        if waiting in self._queue:
            del self._queue[waiting]
            self._queued_rows -= waiting.rows
        if waiting.timer is not None:
            waiting.timer.cancel()

    def _take(self, now: float) -> list[_Waiting[E, R]]:
        """The next batch: what is left of one that failed, else the head of the queue."""
        while self._halves:
            if half := [waiting for waiting in self._halves.pop() if waiting.alive(now)]:
                return half
        batch: list[_Waiting[E, R]] = []
        room = self._max_rows
        while self._queue and len(batch) < self._max_entries:
            waiting = next(iter(self._queue))
            if batch and waiting.rows > room:
                break
            self._leave(waiting)
            if waiting.alive(now):
                batch.append(waiting)
                room -= waiting.rows
        return batch

    def _advance(self) -> None:
        """Give an idle engine its next batch."""
        loop = asyncio.get_running_loop()
        while not self._running and (batch := self._take(loop.time())):
            try:
                call = loop.run_in_executor(self._executor, self._call, [waiting.entry for waiting in batch])
            except Exception as error:  # the executor is shut down, or has no thread to give
                for waiting in batch:
                    waiting.fail(error)
            else:
                self._running = batch
                self._idle.clear()
                call.add_done_callback(partial(self._finished, loop.time()))
        if not self._running:
            self._idle.set()

    def _finished(self, started: float, call: asyncio.Future[Outcome[R]]) -> None:
        """Hand out what a run gave; a batch that failed is halved until the guilty entry is alone."""
        batch, self._running = self._running, []
        try:
            outcome, run_s = call.result()
        except (Exception, asyncio.CancelledError) as error:  # it never ran: the executor was shut down
            outcome, run_s = RuntimeError(f"the executor gave up the run: {error!r}"), 0.0
        rows = sum(waiting.rows for waiting in batch)
        if isinstance(outcome, list):
            for waiting, result in zip(batch, outcome, strict=True):
                waiting.answer(result)
            self._timed_rows = _MEMORY * self._timed_rows + rows
            self._timed_s = _MEMORY * self._timed_s + run_s
        elif len(batch) == 1:
            batch[0].fail(outcome)
        else:
            middle = len(batch) // 2
            self._halves += [batch[middle:], batch[:middle]]
        self._advance()
        if self._observe is not None:
            queue_s = started - min(waiting.since for waiting in batch)
            try:
                self._observe(BatchRun(len(batch), rows, queue_s, run_s, isinstance(outcome, Exception)))
            except Exception:
                logger.exception("observe failed; the batcher goes on")

    def _retry_after_s(self) -> float:
        """When what waits and runs now is likely to be done, in seconds."""
        if not self._timed_rows:
            return _UNMEASURED_S
        ahead = self._queued_rows + sum(waiting.rows for waiting in self._running)
        return ahead * self._timed_s / self._timed_rows

    def _call(self, entries: list[E]) -> Outcome[R]:
        """One run, in the executor's thread. An error is a value here, so that none can get lost."""
        started = time.perf_counter()
        outcome: list[R] | Exception
        try:
            outcome = list(self._run(entries))
            if len(outcome) != len(entries):
                raise ValueError(f"run gave {len(outcome)} results for {len(entries)} entries")
        except StopIteration as error:  # no future takes one
            outcome = RuntimeError(f"run raised {error!r}")
        except Exception as error:
            outcome = error
        except BaseException as error:  # SystemExit and its like would end the loop
            outcome = RuntimeError(f"run raised {error!r}")
        return outcome, time.perf_counter() - started
