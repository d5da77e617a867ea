"""A thread for what requests must not wait for: one thing at a time, at a lower priority.

Python's GIL bounds how much lower. A thread that waits for a core with the GIL in hand is one that requests
wait for: of a load beside 20 requests a second the 99th percentile was 104 ms at the priority of the
requests, 55 at 5 below it, and 82 at 10 below, where it was 38 without a load.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

NICE = 5
"""below the process's own priority; what onnxruntime starts there, such as threads of a session, keeps it"""

T = TypeVar("T")


class Behind:
    """The thread, which lasts until it is closed. It keeps no process from ending: work cannot be broken off.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_do_all, args=(self._jobs,), name=name, daemon=True).start()

    async def do(self, work: Callable[[], T]) -> T:
        """What the work returns, or raises, whatever it is as an Exception; after what was given before."""
        done: Future[T] = Future()
        self._jobs.put(partial(_do, work, done))
        try:
            return await asyncio.wrap_future(done)
        finally:
            del done  # an error has this frame, and must not be had by it

    def close(self) -> None:
        """Let the thread end after what it was given. No more may be."""
        self._jobs.put(None)


def _do_all(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    if sys.platform == "linux":  # elsewhere a priority is a process's
        with suppress(OSError):  # a sandbox may forbid it; the work is done at the process's own, then
            own = os.getpriority(os.PRIO_PROCESS, os.getpid())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(own + NICE, 19))
    while job := jobs.get():
        job()
        del job  # this frame must keep nothing in memory


def _do(work: Callable[[], T], done: Future[T]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(work())
    except BaseException as error:  # SystemExit and its like too: the thread lasts
        # No future that is awaited takes a StopIteration: it would be waited for for ever.
        fits = isinstance(error, Exception) and not isinstance(error, StopIteration)
        done.set_exception(error if fits else RuntimeError(repr(error)))
    del work, done  # an error has this frame, and must not be had by it
