"""Requests that go on in the background, and what became of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deploy.children import DemoError


@dataclass(frozen=True, slots=True)
class Traffic:
    """What became of the requests so far."""

    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    """By the version that answered."""
    errors: list[str] = field(default_factory=list)


@contextmanager
def traffic(ask: Callable[[], str], rate: float) -> Iterator[Traffic]:
    """Call `ask` at most `rate` times a second, one call at a time, in a thread that ends with the block.

    `ask` gives the version that answered, or raises DemoError.
    """
    seen, over = Traffic(), threading.Event()
    thread = threading.Thread(target=_go_on, args=(ask, rate, seen, over), name="traffic")
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _go_on(ask: Callable[[], str], rate: float, seen: Traffic, over: threading.Event) -> None:
    pause_s = 0.0
    while not over.wait(pause_s):
        started = time.perf_counter()
        try:
            version = ask()
        except DemoError as error:
            seen.errors.append(str(error))
        else:
            seen.latencies_ms.setdefault(version, []).append(1e3 * (time.perf_counter() - started))
        pause_s = max(0.0, started + 1 / rate - time.perf_counter())
