"""Real workers under a real supervisor: what a client sees when either is stopped, killed, or broken."""

import asyncio
import os
import signal
import socket
from collections import Counter
from dataclasses import dataclass

import pytest

from service.supervisor import listen
from tests.service.tiny_client import Answer, Connection, Service, serving


@dataclass
class Client:
    """Keeps a connection alive and asks on, until nobody listens any more."""

    service: Service
    counts: Counter[str]

    async def run(self) -> None:
        """Count what happened to every request."""
        while True:
            try:
                connection = await self.service.connect()
            except ConnectionError:
                return
            await self.use(connection)
            connection.writer.close()

    async def use(self, connection: Connection) -> None:
        fresh = True
        try:
            while not (answer := await connection.get("/0.001")).closes:
                self.counts["kept" if answer.status == 200 else "refused"] += 1
                fresh = False
                await asyncio.sleep(0.002)
            self.counts["closed"] += 1
        except ConnectionResetError:
            # Reset before it was accepted: it came as the port closed. Any other reset lost a request.
            self.counts["too late" if fresh else "lost"] += 1
        except asyncio.IncompleteReadError:
            self.counts["lost"] += 1


async def test_sigterm_under_load_loses_no_request() -> None:
    """Unready first, then drained: who keeps a connection alive is told to close it, and all are answered."""
    async with serving(grace_s=3, workers=2) as service:
        counts: Counter[str] = Counter()
        clients = [asyncio.create_task(Client(service, counts).run()) for _ in range(8)]
        watching = await service.connect()
        assert await watching.get("/readyz") == Answer(200, False, "ready")
        while counts["kept"] < 200:
            await service.get("/")
        service.process.send_signal(signal.SIGTERM)
        while (answer := await service.get("/readyz")).status == 200:
            pass
        assert answer == Answer(503, True, "draining")
        await asyncio.gather(*clients)
        assert await service.ended() == 0
    assert counts["closed"] > len(clients)
    assert counts["lost"] == counts["refused"] == 0


async def test_what_is_in_flight_at_the_end_is_answered() -> None:
    """A request that outlasts the grace still gets its answer; an idle connection holds nothing up."""
    async with serving(grace_s=0) as service:
        idle = await service.connect()
        await idle.get("/")
        slow = asyncio.create_task(service.get("/5"))
        await service.get("/")
        service.process.send_signal(signal.SIGTERM)
        await service.refuses()
        assert not slow.done()
        answer = await slow
        assert (answer.status, answer.closes) == (200, True)
        assert await service.ended() == 0


async def test_a_connection_whose_request_is_on_its_way_is_answered() -> None:
    """Accepted before the port closed, asked after: uvicorn alone would drop it."""
    async with serving(grace_s=0, TINY_LINGER="15") as service:
        early = await service.connect()
        await service.get("/")
        service.process.send_signal(signal.SIGTERM)
        await service.refuses()
        answer = await early.get("/")
        assert (answer.status, answer.closes) == (200, True)
        assert await service.ended() == 0


async def test_ctrl_c_skips_the_grace() -> None:
    """A person at a terminal does not wait for load balancers."""
    async with serving(grace_s=600, workers=2) as service:
        service.process.send_signal(signal.SIGINT)
        assert await service.ended() == 0


async def test_a_second_signal_kills() -> None:
    """Nobody is held up against their will; the exit code tells that it was not clean."""
    async with serving(grace_s=600) as service:
        assert (await service.get("/")).status == 200  # one that has not yet begun to serve ends at once
        service.process.send_signal(signal.SIGTERM)
        await service.logged("SIGTERM")
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 1


async def test_a_killed_worker_is_replaced_while_the_other_serves() -> None:
    """Every request on another connection is answered, and a new worker joins."""
    async with serving(grace_s=0, workers=2) as service:
        victim = int((await service.get("/")).body)
        os.kill(victim, signal.SIGKILL)
        await service.logged("ended with signal 9; again in")
        assert (await service.get("/")).status == 200
        await service.logged("takes callers", times=3)
        pids = {(await service.get("/")).body for _ in range(20)}
        assert str(victim) not in pids
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_a_worker_that_cannot_start_leaves_the_others_serving() -> None:
    """Uvicorn's supervisor ends the service here."""
    async with serving(grace_s=0, workers=2, ready=1, TINY_BROKEN="0") as service:
        await service.logged("worker 0 ended with exit code 3", times=2)
        assert (await service.get("/")).status == 200
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_a_worker_told_to_stop_while_it_loads_stops_at_once() -> None:
    """It has accepted nothing: there is nothing to wait for."""
    async with serving(grace_s=600, ready=0, TINY_SLOW="0") as service:
        await service.logged("hangs")
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_workers_die_with_a_killed_supervisor() -> None:
    """The port is free for whoever starts the service again."""
    async with serving(grace_s=600, workers=2) as service:
        service.process.kill()
        await service.refuses()
        listen("127.0.0.1", service.port).close()
        assert await service.ended() == -signal.SIGKILL


async def test_an_answer_is_one_packet() -> None:
    """Its head does not go ahead of its body: whoever reads wakes once."""
    async with serving(grace_s=0) as service:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", service.port)) as raw:
            raw.setblocking(False)
            for _ in range(5):
                await loop.sock_sendall(raw, b"GET /readyz HTTP/1.1\r\nhost: tiny\r\n\r\n")
                assert (await loop.sock_recv(raw, 65_536)).endswith(b"\r\n\r\nready")


async def test_cores_that_a_killed_worker_had_are_free_again() -> None:
    """The supervisor says so in its place: else others would go without them for ever."""
    async with serving(grace_s=0, workers=2) as service:
        victim = int((await service.get("/take")).body)
        assert (await service.get("/taken")).body == "2"
        os.kill(victim, signal.SIGKILL)
        await service.logged("ended with signal 9; again in")
        assert (await service.get("/taken")).body == "0"


@pytest.mark.parametrize("path", ["/", "/readyz"])
async def test_connections_are_kept_alive_otherwise(path: str) -> None:
    """Nobody is told to close a connection of a service that stays."""
    async with serving(grace_s=0) as service:
        connection = await service.connect()
        assert [(await connection.get(path)).closes for _ in range(3)] == [False] * 3
