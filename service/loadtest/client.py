"""HTTP/1.1 over connections that stay open: a small client of our own.

Measured with bodies of 1.7 KB, aiohttp takes 180 microseconds of CPU a request, asyncio's streams with
httptools 25. On a machine that is shared with the service, the difference would show as the service's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from service.loadtest.errors import LoadTestError

CHUNK = 65_536


class NotHttp(Exception):
    """What came back is not HTTP."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service is."""

    scheme: str
    host: str
    port: int
    path: str
    """before that of every route, as a proxy may add one"""

    @staticmethod
    def parse(url: str) -> Target:
        """`http://host:port`, or https. Raises LoadTestError."""
        wrong = LoadTestError(f"{url} is no address of a service; write it as http://127.0.0.1:8000")
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise wrong
        default = 443 if parts.scheme == "https" else 80
        return Target(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self._authority}{self.path}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def message(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A whole request; a body is JSON."""
        head = [
            f"{method} {self.path}{path} HTTP/1.1",
            f"host: {self._authority}",
            "user-agent: rankserve-loadtest",
            f"content-length: {len(body)}",
            *(["content-type: application/json"] if body else []),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    at: float
    """when it was there as a whole, by `time.monotonic`"""
    stays: bool
    """the connection can be used again"""


class Connection:
    """One connection, with one request on it at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._whole, self._stays = b"", False, True

    @staticmethod
    async def open(target: Target) -> Connection:
        """Connect. OSError where that fails."""
        tls = target.scheme == "https" or None
        return Connection(*await asyncio.open_connection(target.host, target.port, ssl=tls))

    @property
    def ended(self) -> bool:
        """Has the other side closed it?"""
        return self._reader.at_eof() or self._writer.is_closing() or self._reader.exception() is not None

    async def ask(self, message: bytes) -> Answer:
        """Send a request and read the answer.

        Raises:
            ConnectionError: the connection ended before the answer.
            NotHttp: what came is none.
        """
        self._body, self._whole = b"", False
        self._writer.write(message)
        try:
            while not self._whole:
                data = await self._reader.read(CHUNK)
                if not data:
                    raise ConnectionResetError("the connection ended before the answer")
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise NotHttp(str(error)) from None
        return Answer(self._parser.get_status_code(), self._body, time.monotonic(), self._stays)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def on_body(self, part: bytes) -> None:
        """The parser's call: a part of the body is there."""
        self._body += part

    def on_message_complete(self) -> None:
        """The parser's call: the answer is whole. Only now can it tell whether another may follow."""
        self._whole, self._stays = True, self._parser.should_keep_alive()


class Pool:
    """At most so many connections to a service, used in turn so that every worker gets its share."""

    def __init__(self, target: Target, most: int) -> None:
        self._target, self._most = target, most
        self._places = asyncio.Semaphore(most)
        self._idle: deque[Connection] = deque()

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    async def open(self) -> None:
        """Have all connections open, as far as the service takes them."""
        with suppress(OSError):
            while len(self._idle) < self._most:
                self._idle.append(await Connection.open(self._target))

    async def ask(self, message: bytes, sent: Callable[[float], None] = lambda at: None) -> Answer:
        """Ask on the connection that has been idle longest, or a new one; waits, first come first served,
        while all are in use. `sent` hears when the request goes out. Raises OSError and NotHttp."""
        async with self._places:
            connection = self._take() or await Connection.open(self._target)
            stays = False
            try:
                sent(time.monotonic())
                answer = await connection.ask(message)
                stays = answer.stays
                return answer
            finally:
                if stays:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if not connection.ended:
                return connection
            connection.close()
        return None
