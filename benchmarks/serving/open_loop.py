"""The highest rate of requests that come when they come and are answered soon enough.

Open loop: requests go out at random times of a mean rate (Poisson), answered or not, and a latency counts
from when its request was due. The same client asks every server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import numpy as np

from benchmarks.load import Outcome, Pool, message, poisson

BOUND_MS = 50.0
"""of the 99th percentile"""
STEPS = 5
"""halvings of the range in which the rate lies"""
TRIES = 2
"""of a rate, of which one must do: a stall of the machine says nothing of the server"""
SETTLE_S = 0.5
LATE_SHARE = 0.2
"""of the bound: a client later than that would measure itself"""


def highest(port: int, bodies: Sequence[bytes], closed: float, seconds: float) -> float:
    """The highest rate found, requests a second, with a 99th percentile once within `BOUND_MS`; or 0.

    Args:
        port: of the server.
        bodies: of the requests, sent in turn.
        closed: requests a second that it answers in a closed loop: it cannot do more in an open one.
        seconds: each try of a rate.
    """
    requests = [_request(body) for body in bodies]
    low, high = 0.0, closed
    for _ in range(STEPS):
        rate = (low + high) / 2
        good = _good(port, requests, rate, seconds)
        low, high = (rate, high) if good else (low, rate)
    return low


def _good(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> bool:
    """Were all answered, and 99 of a hundred within the bound, in one of the tries? An error ends them."""
    for _ in range(TRIES):
        outcomes = asyncio.run(_outcomes(port, requests, rate, seconds))
        if not outcomes or any(outcome.kind != "ok" for outcome in outcomes):
            return False
        if _in_time(outcomes):
            return True
    return False


async def _outcomes(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> list[Outcome]:
    async with Pool(port) as pool:
        outcomes = await poisson(pool, requests, rate, seconds)
    await asyncio.sleep(SETTLE_S)
    return outcomes


def _in_time(outcomes: Sequence[Outcome]) -> bool:
    """Were 99 of a hundred answered within the bound, by a client that was itself in time?"""
    late = np.percentile([1e3 * (outcome.sent - outcome.planned) for outcome in outcomes], 99)
    took = np.percentile([1e3 * outcome.latency_s for outcome in outcomes], 99)
    return bool(late <= LATE_SHARE * BOUND_MS and took <= BOUND_MS)


def _request(body: bytes) -> bytes:
    return message("POST", "/v1/rank", json.loads(body))
