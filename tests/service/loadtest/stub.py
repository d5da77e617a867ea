"""A small HTTP server that answers as a service would: as late, or as badly, as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

Asked = dict[str, Any]
Rank = Callable[[Asked], Awaitable[bytes]]
"""From a request to rank to a whole answer; an empty one hangs up."""


def slate(asked: Asked, **more: Any) -> bytes:
    """A good answer."""
    said = {
        "version": "v1",
        "items": [{"id": id_, "score": 0.5} for id_ in asked["candidates"][: asked.get("limit")]],
        "degraded": [],
        "defaults": {"users": 0, "items": 0},
        "timings_ms": {"rank": 1.5, "total": 2.0},
    }
    return message(200, said | more)


def message(status: int, said: Any, *head: str) -> bytes:
    """An HTTP answer."""
    body = orjson.dumps(said)
    lines = [f"HTTP/1.1 {status} said", f"content-length: {len(body)}", *head]
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusal(status: int, type_: str) -> bytes:
    """As the service says no."""
    return message(status, {"error": {"type": type_, "message": "not now", "field": "user_id"}})


async def at_once(asked: Asked) -> bytes:
    """A good answer."""
    return slate(asked)


@dataclass
class Stub:
    """What the server says, and what it was asked."""

    rank: Rank = at_once
    ready: bytes = message(200, {"status": "ready", "rankers": {"default": "v1", "feed": None}})
    model: bytes = message(200, {"training": {"dataset": {"name": "synthetic", "users": 30, "videos": 400}}})
    asked: list[Asked] = field(default_factory=list)
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on a connection, until either side ends it."""
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.partition("content-length:")[2].split(None, 1)[0])
                answer = await self._answer(head.split()[1], await reader.readexactly(length))
                writer.write(answer)
                if not answer or b"connection: close" in answer:
                    break
        writer.close()

    async def _answer(self, path: str, body: bytes) -> bytes:
        if path == "/readyz":
            return self.ready
        if path.startswith("/v1/models/"):
            return self.model
        self.asked.append(orjson.loads(body))
        return await self.rank(self.asked[-1])


@asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[Stub]:
    """The server, for as long as the block."""
    server = await asyncio.start_server(stub.talk, "127.0.0.1", 0)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        for connection in stub.connections:
            connection.close()
        for connection in stub.connections:
            with suppress(ConnectionError):
                await connection.wait_closed()
