"""A proxy before Redis that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes bytes both ways, answers late by `delay_s`; no answer at all while `open` is not set."""

    def __init__(self) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.open = asyncio.Event()
        self.open.set()

    @property
    def url(self) -> str:
        """Where it stands."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """One connection."""
        with suppress(OSError):
            there, to = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.TaskGroup() as group:
                    asking = group.create_task(self._pass(reader, to, late=False))
                    answering = group.create_task(self._pass(there, writer, late=True))
                    await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
                    asking.cancel()
                    answering.cancel()
            finally:
                to.close()
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        with suppress(OSError):
            while some := await reader.read(65_536):
                if late:
                    await asyncio.sleep(self.delay_s)
                    await self.open.wait()
                writer.write(some)
                await writer.drain()


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """A proxy before the Redis on a port."""
    found = Proxy()
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(found.serve(reader, writer, port)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
