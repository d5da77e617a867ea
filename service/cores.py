"""Cores that idle workers lend: where only some of them have a run, it is spread over the others' cores, too.

A worker's engine has one thread, so that all of them together keep all cores busy. While few requests come,
most cores would idle and a request take as long as ever. So a run counts itself in, in memory that all
workers share, and has a further thread for each worker that has no run.

A worker that has just had a run is about to send its answers and to read what comes next: for a moment it
keeps its core. Else busy workers would lend each other cores that none of them can spare.

A look and a count are not one step, so that two runs may now and then borrow the same core. They then share
it, which is what they would have done to a core's own worker an instant later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic_ns
from typing import TypeVar

from service.tally import Tally

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Threads:
    """Those of one run.

    Attributes:
        count: how many.
        beside: where all but the first are; None where that is all there is.
    """

    count: int = 1
    beside: Executor | None = None

    def map(self, call: Callable[[A], B], parts: Sequence[A]) -> list[B]:
        """The parts' results, in order. They are dealt to the threads, of which this is one."""
        if self.beside is None:
            return [call(part) for part in parts]
        submit = self.beside.submit

        def every(at: int) -> list[B]:
            return [call(part) for part in parts[at :: self.count]]

        others: list[Future[list[B]]] = []
        try:
            for at in range(1, self.count):
                others.append(submit(every, at))
            dealt = [every(0), *(results.result() for results in others)]
        finally:
            wait(others)  # where one failed, too: nothing runs when the run has ended
        return [dealt[at % self.count][at // self.count] for at in range(len(parts))]


KEPT_NS = 5_000_000
"""how long a worker keeps its core after a run"""

ALONE = Threads()
"""the run's own thread"""


class Cores:
    """One worker's view of them.

    Args:
        tally: what every worker has.
        worker: which of them this one is.
        cores: of the machine; workers beyond these have none to lend.
        clock: nanoseconds, the same for all workers.
    """

    def __init__(
        self, tally: Tally, worker: int, cores: int, clock: Callable[[], int] = monotonic_ns
    ) -> None:
        self._tally, self._worker, self._clock = tally, worker, clock
        self._all = min(cores, len(tally))
        self._beside = ThreadPoolExecutor(max(1, self._all - 1), "lent")
        self._own = 0  # while two versions run, the cores of both
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, most: int) -> Iterator[Threads]:
        """At most so many threads for a run: it has as many cores until the block ends."""
        others = self._tally.taken(self._clock(), but=self._worker)
        count = max(1, min(most, self._all - others - self._own))
        self._take(count)
        try:
            yield Threads(count, self._beside) if count > 1 else ALONE
        finally:
            self._take(-count)

    def _take(self, more: int) -> None:
        with self._lock:
            self._own += more
            self._tally.take(self._worker, self._own, self._clock() + KEPT_NS)
