"""Requests on kept-alive connections, one by one or as an open-loop Poisson stream.

Open loop: requests go out when they are due, whether or not earlier ones have been answered, and latency
counts from then, so that a service that stalls can't hide it by holding its callers up. How late this client
itself was is kept beside. A small client of its own: a general one costs as much as the service it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_S = 30.0
"""An answer that takes longer is given up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    closes: bool
    """the connection ends with it"""
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


def loaded_service(about: str | None) -> argparse.ArgumentParser:
    """The options of whatever puts a service under load."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--workers", type=int, default=2, help="of the service [%(default)s]")
    parser.add_argument("--rate", type=float, default=40, help="requests a second [%(default)s]")
    parser.add_argument("--candidates", type=int, default=200, help="a request [%(default)s]")
    return parser


class Connection:
    """One connection to a service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._closes = False
        self.worker: str | None = None
        """that has it, where it was asked for"""

    @staticmethod
    async def open(port: int, host: str = "127.0.0.1") -> Connection:
        """Connect. ConnectionError where nobody listens."""
        return Connection(*await asyncio.open_connection(host, port))

    @property
    def ended(self) -> bool:
        """Has the other side closed it, or said that it does?"""
        gone = self._reader.at_eof() or self._reader.exception() is not None
        return self._closes or gone or self._writer.is_closing()

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read the answer. ConnectionError where the connection ends before it."""
        self._writer.write(request)
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(None, 1)[0])
            body = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the connection ended before the answer") from None
        self._closes = b"connection: close" in head
        return Answer(int(head.split(None, 2)[1]), self._closes, body)

    async def ask_worker(self) -> str:
        """Ask which worker has this connection; it keeps it."""
        worker: str = (await self.ask(message("GET", "/readyz"))).json()["worker"]
        self.worker = worker
        return worker

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def message(method: str, path: str, body: Any = None, token: str | None = None) -> bytes:
    """An HTTP request, its body as JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    head = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(content)}",
    ]
    if token is not None:
        head.append(f"authorization: Bearer {token}")
    return "\r\n".join([*head, "", ""]).encode() + content


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Times are seconds on the event loop's clock."""

    request: int
    """which of those there are"""
    planned: float
    sent: float
    ended: float
    kind: str
    """`ok`; or a status and type; `lost` where its connection ended, `reset` where that was a new one, so
    that perhaps no worker had it; `refused` where nobody listened; `late` where no answer came in time"""
    worker: str | None = None
    body: bytes = b""

    @property
    def latency_s(self) -> float:
        """From when it was due."""
        return self.ended - self.planned

    def json(self) -> Any:
        """The answer's body, read."""
        return json.loads(self.body)


class Pool:
    """Connections to one service, used in turn so that every worker gets its share."""

    def __init__(self, port: int, *, greets: bool = False) -> None:
        """`greets`: every new connection first asks which worker it has."""
        self._port, self._greets = port, greets
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._open:
            connection.close()

    async def open(self, count: int) -> Counter[str]:
        """Have so many open connections, and ask each whose it is: how many every worker has."""
        for connection in [connection for connection in self._idle if connection.ended]:
            self._idle.remove(connection)
            self._drop(connection)
        while len(self._open) < count:
            connection = await self._connect()
            if connection.worker is None:
                await connection.ask_worker()
            if connection.ended:
                self._drop(connection)
            else:
                self._idle.append(connection)
        return Counter(str(connection.worker) for connection in self._open)

    async def send(self, number: int, request: bytes, planned: float | None = None) -> Outcome:
        """Send a request now, on an idle connection or a new one, and say what became of it."""
        clock = asyncio.get_running_loop().time
        sent = clock()
        connection, kind, body = self._take(), "late", b""
        fresh = connection is None
        try:
            async with asyncio.timeout(LIMIT_S):
                connection = connection or await self._connect()
                answer = await connection.ask(request)
            kind, body = _kind(answer), answer.body
            if not answer.closes:
                self._idle.append(connection)
        except ConnectionRefusedError:
            kind = "refused"
        except ConnectionError:
            kind = "reset" if fresh else "lost"
        except TimeoutError:
            pass
        if connection is not None and connection not in self._idle:
            self._drop(connection)
        return Outcome(
            number, planned or sent, sent, clock(), kind, connection.worker if connection else None, body
        )

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if not connection.ended:
                return connection
            self._drop(connection)
        return None

    async def _connect(self) -> Connection:
        while True:
            connection = await Connection.open(self._port)
            self._open.add(connection)
            if self._greets:
                await connection.ask_worker()
            if not connection.ended:
                return connection
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()


def _kind(answer: Answer) -> str:
    return "ok" if answer.status == 200 else f"{answer.status} {answer.json()['error']['type']}"


async def poisson(
    pool: Pool,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    seed: int = 0,
    over: asyncio.Event | None = None,
) -> list[Outcome]:
    """Send requests in turn, at random times of a mean `rate` a second; all their outcomes, in order.

    Goes on for some seconds, or until `over` is set.
    """
    loop, random, over = asyncio.get_running_loop(), np.random.default_rng(seed), over or asyncio.Event()
    start, at = loop.time(), 0.0
    sent: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        while (at := at + random.exponential(1 / rate)) < seconds and not over.is_set():
            await asyncio.sleep(max(0.0, start + at - loop.time()))
            number = len(sent) % len(requests)
            sent.append(group.create_task(pool.send(number, requests[number], start + at)))
    return [task.result() for task in sent]


async def in_parallel(pool: Pool, requests: Sequence[bytes], at_a_time: int) -> list[Outcome]:
    """Send every request once, so many at a time; their outcomes in order."""
    waiting = iter(enumerate(requests))
    outcomes: dict[int, Outcome] = {}

    async def client() -> None:
        for number, request in waiting:
            outcomes[number] = await pool.send(number, request)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(client())
    return [outcomes[number] for number in range(len(requests))]


def report(outcomes: Sequence[Outcome]) -> str:
    """Kinds, latencies from the time due, and how late the client was, in two lines."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(o.kind for o in outcomes).most_common())
    took = [1e3 * outcome.latency_s for outcome in outcomes if outcome.kind == "ok"]
    late = [1e3 * (outcome.sent - outcome.planned) for outcome in outcomes]
    return (
        f"{len(outcomes)} requests: {kinds}\n"
        f"latency {_percentiles(took)}; client's own lateness {_percentiles(late)}"
    )


def _percentiles(milliseconds: Iterable[float]) -> str:
    values = np.array(list(milliseconds))
    if not len(values):
        return "none"
    p50, p99, p999 = np.percentile(values, [50, 99, 99.9])
    return f"p50 {p50:.1f}, p99 {p99:.1f}, p99.9 {p999:.1f}, most {values.max():.1f} ms"
