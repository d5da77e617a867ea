"""An entry that waits for its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import DeadlineExceeded

E = TypeVar("E")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Waiting(Generic[E, R]):
    """An entry with the future of its own answer: no table of ids, and "the client left" is one check.

    Attributes:
        entry: opaque.
        rows: how much work it is.
        deadline: by which it must have begun to run, on the loop's clock.
        since: when it came, on the batcher's, which is finer.
        future: of its answer.
        timer: that tells it when its deadline has passed.
    """

    entry: E
    rows: int
    deadline: float
    since: float
    future: asyncio.Future[R]
    timer: asyncio.TimerHandle | None = None

    def answer(self, result: R) -> None:
        """Give it its answer, unless it has one or its caller has left."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell it why there will be no answer, unless it has one or its caller has left."""
        if not self.future.done():
            self.future.set_exception(error)

    def alive(self, now: float) -> bool:
        """Whether to run it; one whose deadline has passed is told so."""
        if self.deadline <= now:
            self.fail(DeadlineExceeded())
        return not self.future.done()
