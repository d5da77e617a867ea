"""Requests that go on against a running service while a test does something to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

from benchmarks.load import Outcome, Pool, message
from benchmarks.running import Service
from service.bundle.golden import GoldenRequest
from tests.service.answers import Expected, body

PAUSE_S = 0.005
"""Of a client between two requests: a load that leaves room for what the test does."""

Truth = Mapping[str, Sequence[Expected]]
"""version -> what each of the requests gets"""


def sent(requests: Sequence[GoldenRequest]) -> list[bytes]:
    """Requests as they travel."""
    return [message("POST", "/v1/rank", body(request)) for request in requests]


@asynccontextmanager
async def load(pool: Pool, requests: Sequence[bytes], clients: int = 4) -> AsyncIterator[list[Outcome]]:
    """Clients that ask on until the block ends or nobody listens; the list grows with what they got."""
    outcomes: list[Outcome] = []
    over, numbers = asyncio.Event(), count()

    async def client() -> None:
        while not over.is_set():
            number = next(numbers) % len(requests)
            outcomes.append(await pool.send(number, requests[number]))
            if outcomes[-1].kind == "refused":
                return
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
        try:
            yield outcomes
        finally:
            over.set()


async def reach(pool: Pool, service: Service) -> Counter[str]:
    """Open connections until each worker has some; how many each has."""
    async with asyncio.timeout(60):
        connections = 8
        while (found := await pool.open(connections)).keys() != {one.worker for one in service.live()}:
            connections += 4
    return found


async def until(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  whatever it is, it has no event
            await asyncio.sleep(0.01)


async def more(outcomes: Sequence[Outcome], n: int = 40) -> None:
    """Wait until so many more requests have been answered."""
    there = len(outcomes)
    await until(lambda: len(outcomes) >= there + n)


def kinds(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many of each kind."""
    return Counter(outcome.kind for outcome in outcomes)


def versions(outcomes: Sequence[Outcome], truth: Truth) -> list[str]:
    """The version of each answer, which must have that version's scores and no other's."""
    found = []
    for outcome in outcomes:
        answer = outcome.json()
        fitting = [version for version, expected in truth.items() if expected[outcome.request].fits(answer)]
        assert fitting == [answer["version"]]
        found.append(answer["version"])
    return found
