"""A running `tiny_service`, its log, and connections to it."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Answer:
    """What came back."""

    status: int
    closes: bool
    body: str


@dataclass
class Connection:
    """One connection to the service."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def get(self, path: str) -> Answer:
        """An answer; ConnectionError or IncompleteReadError where the connection ends before it."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: tiny\r\n\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split()[0])
        body = await self.reader.readexactly(length)
        return Answer(int(head.split()[1]), "connection: close" in head, body.decode())


@dataclass
class Service:
    """A supervisor in a process of its own."""

    process: Process
    port: int
    log: list[str] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    async def connect(self) -> Connection:
        """A new connection."""
        self.connections.append(Connection(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.connections[-1]

    async def get(self, path: str) -> Answer:
        """An answer on a connection of its own."""
        connection = await self.connect()
        answer = await connection.get(path)
        connection.writer.close()
        return answer

    async def logged(self, text: str, times: int = 1) -> None:
        """Read the log until that has been said."""
        while sum(text in line for line in self.log) < times:
            assert self.process.stderr is not None
            line = await self.process.stderr.readline()
            assert line, f"ended without {text!r}: {self.log}"
            self.log.append(line.decode())

    async def ended(self) -> int:
        """The exit code."""
        await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def refuses(self) -> None:
        """Wait until nobody listens."""
        while True:
            try:
                (await self.connect()).writer.close()
            except ConnectionError:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    grace_s: float, workers: int = 1, ready: int | None = None, **environment: str
) -> AsyncIterator[Service]:
    """A service of which `ready` workers have started (None: all); nothing of it is left in the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service.tiny_service", "supervisor", str(grace_s), str(workers)),
        env={**os.environ, **environment},
        stderr=PIPE,
    )
    service = Service(process, 0)
    try:
        async with asyncio.timeout(40):
            await service.logged("listening on")
            service.port = int(service.log[-1].split(":")[2].split()[0])
            await service.logged("takes callers", workers if ready is None else ready)
            yield service
    finally:
        if process.returncode is None:
            process.kill()  # and its workers with it
        await process.wait()
        for connection in service.connections:
            connection.writer.close()
