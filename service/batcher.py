"""Entries become batches of rows while the engine is busy.

No timer forms batches: an idle engine takes what there is, and what queues while it runs is the next
batch, cut by rows and by entries. `_advance` gives out work, `_finished` hands out its answers and goes on.

A run that should be short may be done on the event loop: a thread gains nothing where no core is free for
it, and the way there and back takes part of a millisecond. The loop first reads what may come along.

First come, first served, whatever the size: nobody overtakes, so nobody starves. An entry behind a huge one
waits for one run of it; if that is too long for its deadline, by the learned cost, it is refused at once.

Knows nothing of HTTP, models or features: an entry is opaque, `rows` says how much work it is, `run` does it.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

from service.cost import Cost
from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.waiting import Waiting

E = TypeVar("E")
R = TypeVar("R")
Outcome = tuple[list[R] | Exception, float]  # results or why there are none; seconds

logger = logging.getLogger(__name__)
_UNMEASURED_S = 1.0  # when to come back, as long as no run has been timed


@dataclass(frozen=True, slots=True)
class BatchRun:
    """One call of `run`: its size, how long its oldest entry had waited, how long it took, how it ended."""

    entries: int
    rows: int
    queue_s: float
    run_s: float
    failed: bool


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
        inline_s: float = 0.0,
        observe: Callable[[BatchRun], None] | None = None,
        cost: Cost | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`run` gives a result an entry, in order; it is called in `executor`, which stays the caller's.

        A batch has at most `max_entries` entries and `max_rows` rows; an entry of more rows runs alone. A
        batch that should take at most `inline_s` seconds runs on the event loop, and never beside another.
        `observe` is told of every run. `cost` is what is known of a run's before the first one.
        """
        if min(max_rows, max_entries, max_queued_rows) < 1:
            raise ValueError("max_rows, max_entries and max_queued_rows must be at least 1")
        self._run, self._rows, self._executor, self._observe = run, rows, executor, observe
        self._max_rows, self._max_entries, self._max_queued_rows = max_rows, max_entries, max_queued_rows
        self._queue: OrderedDict[Waiting[E, R], None] = OrderedDict()
        self._queued_rows = self._queued_shares = 0
        self._halves: list[list[Waiting[E, R]]] = []  # of a batch that failed, the next to run last
        self._running: list[Waiting[E, R]] = []
        self._began = 0.0
        self._inline_s = inline_s
        self._turn: asyncio.Handle | None = None  # of the loop's, to come, in which work is given out
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False
        self._cost, self._clock = cost or Cost(), clock

    @property
    def pending_entries(self) -> int:
        """Entries that wait for the engine."""
        return len(self._queue)

    @property
    def pending_rows(self) -> int:
        """Rows that wait for the engine."""
        return self._queued_rows

    @property
    def running(self) -> bool:
        """Is a run under way?"""
        return bool(self._running)

    @property
    def busy(self) -> bool:
        """Is anything ahead of an entry that comes now?"""
        return bool(self._running or self._halves or self._queue)

    async def submit(self, entry: E, deadline: float) -> R:
        """The entry's own result, or the error that `run` raised for it alone.

        `deadline` is a time of the loop's clock by which the entry must have begun to run: DeadlineExceeded
        where it has not, and whatever `admit` says.
        """
        waiting = self._enqueue(entry, deadline)
        self._go_on()
        try:
            return await waiting.future
        finally:
            self._leave(waiting)  # cancelled, expired or closed: its rows are free

    def admit(self, rows: int, deadline: float) -> None:
        """Raise NotReady, DeadlineExceeded or Overloaded where `submit` would, for an entry of so many rows.

        To be asked before an entry is made, so that one that is refused costs nothing. Overloaded where no
        more rows may wait, and where the entry would not be done by its deadline, by the cost of what runs,
        of what waits and of its own. An idle engine takes any: a wrong cost mends itself by that.
        """
        if self._refusing:
            raise NotReady("the model takes no more requests; send it again")
        if not (left := deadline - asyncio.get_running_loop().time()) > 0:  # not a number is no deadline
            raise DeadlineExceeded
        if not self.busy:
            return
        ahead = self._ahead_s()
        if self._queued_rows + rows > self._max_queued_rows:
            raise Overloaded(ahead if self._cost.known else _UNMEASURED_S)
        if self._cost.known and (late := ahead + self._cost.of(rows) - left) > 0:
            raise Overloaded(late, "what is ahead would take until after the deadline; raise deadline_ms, or")

    async def drain(self) -> None:
        """Refuse new entries; return when the others have their answers and the engine is idle."""
        self._refusing = True
        await self._idle.wait()

    def close(self) -> None:
        """Refuse new entries and fail the others; `drain` then waits for the run under way, if any."""
        self._refusing = True
        for waiting in chain(self._running, *self._halves, self._queue):
            waiting.fail(NotReady("the model was closed before it had ranked this request; send it again"))

    def _enqueue(self, entry: E, deadline: float) -> Waiting[E, R]:
        """The entry at the end of the queue. What goes wrong on the way there is its own trouble only."""
        loop, rows = asyncio.get_running_loop(), self._rows(entry)
        if not rows >= 1:
            raise ValueError(f"rows(entry) must be at least 1, got {rows}")
        self.admit(rows, deadline)
        waiting: Waiting[E, R] = Waiting(entry, rows, deadline, self._clock(), loop.create_future())
        if self.busy:
            waiting.timer = loop.call_at(deadline, waiting.fail, DeadlineExceeded())
        self._queue[waiting] = None
        self._queued_rows += rows
        self._queued_shares += self._share(rows)
        return waiting

    def _leave(self, waiting: Waiting[E, R]) -> None:
        """Out of the queue, if it is still there."""
        if waiting in self._queue:
            del self._queue[waiting]
            self._queued_rows -= waiting.rows
            self._queued_shares -= self._share(waiting.rows)
        if waiting.timer is not None:
            waiting.timer.cancel()

    def _take(self, now: float) -> list[Waiting[E, R]]:
        """The next batch: what is left of one that failed, else the head of the queue."""
        while self._halves:
            if half := [waiting for waiting in self._halves.pop() if waiting.alive(now)]:
                return half
        batch, rows, until = list[Waiting[E, R]](), 0, math.inf
        while self._queue and len(batch) < self._max_entries:
            waiting = next(iter(self._queue))
            if batch and not self._fits(rows, waiting.rows, until - now):
                break
            self._leave(waiting)
            if waiting.alive(now):
                batch.append(waiting)
                rows, until = rows + waiting.rows, min(until, waiting.deadline)
        return batch

    def _fits(self, rows: int, more: int, within_s: float) -> bool:
        """May a batch of so many rows have more? If it is in time, or on the loop, it shall still be so."""
        with_it, takes_s = rows + more, self._cost.of
        late = self._cost.known and takes_s(rows) <= within_s < takes_s(with_it)
        return with_it <= self._max_rows and not late and (self._inline(with_it) or not self._inline(rows))

    def _inline(self, rows: int) -> bool:
        return self._cost.known and self._cost.of(rows) <= self._inline_s

    def _go_on(self, *, answered: bool = False) -> None:
        """Give out work: now, or where it may be done on the loop, in a turn of its own.

        That is the one after the next, and when a run was just answered counted from there: the answers are
        on their way then.
        """
        if not self._inline_s:
            self._advance()
        elif self._turn is None or answered:
            if self._turn is not None:
                self._turn.cancel()
            self._idle.clear()
            self._turn = asyncio.get_running_loop().call_soon(self._in_next_turn)

    def _in_next_turn(self) -> None:
        self._turn = asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        """Give an idle engine its next batch."""
        loop, self._turn = asyncio.get_running_loop(), None
        while not self._running and (batch := self._take(loop.time())):
            entries = [waiting.entry for waiting in batch]
            if self._inline(_rows(batch)):
                self._begin(batch)
                self._finished(self._call(entries))
                return
            try:
                call = self._executor.submit(self._call, entries)
            except Exception as error:  # the executor is shut down, or has no thread to give
                for waiting in batch:
                    waiting.fail(error)
            else:
                self._begin(batch)
                # Not by run_in_executor: a future of asyncio's costs the loop another turn.
                call.add_done_callback(lambda call: loop.call_soon_threadsafe(self._came_back, call))
        if not self._running:
            self._idle.set()

    def _begin(self, batch: list[Waiting[E, R]]) -> None:
        self._running, self._began = batch, self._clock()
        self._idle.clear()

    def _came_back(self, call: Future[Outcome[R]]) -> None:
        """The executor is done with a run."""
        try:
            outcome = call.result()
        except Exception as error:  # it never ran: the executor was shut down
            outcome = RuntimeError(f"the executor gave up the run: {error!r}"), 0.0
        self._finished(outcome)

    def _finished(self, outcome: Outcome[R]) -> None:
        """Hand out what a run gave; a batch that failed is halved until the guilty entry is alone."""
        batch, began, self._running = self._running, self._began, []
        (results, run_s), rows = outcome, _rows(batch)
        if isinstance(results, list):
            for waiting, result in zip(batch, results, strict=True):
                waiting.answer(result)
            # All that others waited for, the way to the thread and back included.
            self._cost = self._cost.after(rows, self._clock() - began)
        elif len(batch) == 1:
            batch[0].fail(results)
        else:
            middle = len(batch) // 2
            self._halves += [batch[middle:], batch[:middle]]
        self._go_on(answered=True)
        if self._observe is not None:
            queue_s = began - min(waiting.since for waiting in batch)
            try:
                self._observe(BatchRun(len(batch), rows, queue_s, run_s, isinstance(results, Exception)))
            except Exception:
                logger.exception("observe failed; the batcher goes on")

    def _share(self, rows: int) -> int:
        """What an entry uses up of the `max_rows * max_entries` shares of a run: rows of it, or an entry."""
        return max(self._max_rows, self._max_entries * min(rows, self._max_rows))

    def _ahead_s(self) -> float:
        """Seconds until all that runs and waits now is likely to be done."""
        of, whole = self._cost.of, self._max_entries * self._max_rows
        running = of(_rows(self._running)) - (self._clock() - self._began)
        halves = sum(of(_rows(half)) for half in self._halves)
        return max(0.0, running) + halves + of(self._queued_rows, self._queued_shares / whole)

    def _call(self, entries: list[E]) -> Outcome[R]:
        """One run, wherever it is done. An error is a value here, so that none can get lost."""
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


def _rows(batch: Sequence[Waiting[E, R]]) -> int:
    return sum(waiting.rows for waiting in batch)
