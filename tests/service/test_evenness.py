"""Real workers: their keep-alive connections are as many for each, and stay so."""

import asyncio
import os
import signal
from collections import Counter

import pytest

from tests.service.tiny_client import Connection, Service, serving

PATIENCE = "1000000"
"""On a machine that is short of time a worker may wake after another lost its patience; not in here."""


async def pids(connections: list[Connection]) -> Counter[str]:
    """Connections by worker."""
    return Counter([(await connection.get("/")).body for connection in connections])


async def connect(service: Service, count: int, together: bool) -> list[Connection]:
    """So many connections, one after another or all at once."""
    if together:
        return list(await asyncio.gather(*(service.connect() for _ in range(count))))
    connections = []
    for _ in range(count):
        connections.append(await service.connect())
        await connections[-1].get("/")
    return connections


async def evened(service: Service, kept: list[Connection]) -> Counter[str]:
    """Ask on 8 connections until no worker carries more than 5; who is told to close comes again."""
    while True:
        carried: Counter[str] = Counter()
        for at, connection in enumerate(kept):
            answer = await connection.get("/")
            carried[answer.body] += 1
            if answer.closes:
                kept[at] = await service.connect()
        if max(carried.values()) <= 5:
            return carried


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("workers", [2, 3])
async def test_no_worker_carries_more_than_its_share_plus_one(workers: int, together: bool) -> None:
    """With 4 and with 8 connections that are kept alive, opened one after another or all at once."""
    async with serving(grace_s=0, workers=workers, TINY_PATIENCE=PATIENCE) as service:
        for count in (4, 8):
            connections = await connect(service, count, together)
            assert max((await pids(connections)).values()) <= count / workers + 1
            for connection in connections:
                connection.writer.close()


async def test_a_respawned_worker_gets_its_share_of_connections_that_were_there() -> None:
    """Those of its predecessor went to the others, which send clients on as soon as there is room."""
    async with serving(grace_s=0, workers=2, TINY_PATIENCE=PATIENCE) as service:
        connections = await connect(service, 8, together=True)
        (victim, _), (other, _) = (await pids(connections)).most_common()
        os.kill(int(victim), signal.SIGKILL)
        await service.logged("ended with signal 9")
        kept = []
        for connection in connections:
            try:
                await connection.get("/")
                kept.append(connection)
            except (ConnectionError, asyncio.IncompleteReadError):
                kept.append(await service.connect())
        await service.logged("takes callers", times=3)
        carried = await evened(service, kept)
        assert other in carried
        assert victim not in carried


@pytest.mark.parametrize("before", [0, 1])
async def test_a_worker_that_hung_for_a_moment_gets_its_share_again(before: int) -> None:
    """It goes on with as many connections as it had: that it lives shows in its beat alone."""
    async with serving(grace_s=0, workers=2) as service:
        kept = await connect(service, 2 * before, together=False)
        hung = int((await service.get("/")).body)
        os.kill(hung, signal.SIGSTOP)
        try:
            while len(kept) < 8:
                kept += [connection := await service.connect()]
                assert (await connection.get("/")).body != str(hung)
        finally:
            os.kill(hung, signal.SIGCONT)
        carried = await evened(service, kept)
        assert str(hung) in carried


async def test_a_worker_that_hangs_strands_no_caller() -> None:
    """It has fewer connections than the other, which takes callers all the same, after a moment."""
    async with serving(grace_s=0, workers=2) as service:
        hung = int((await service.get("/")).body)
        os.kill(hung, signal.SIGSTOP)
        try:
            carried = await pids(await connect(service, 8, together=False))
        finally:
            os.kill(hung, signal.SIGCONT)
        assert str(hung) not in carried
