"""A worker process: an ASGI app on the socket that the supervisor keeps, and an orderly end.

Told to stop (SIGTERM) a worker first says so: readiness turns traffic away and every answer closes its
connection, while it goes on accepting for a grace, so that load balancers can notice. Then it stops
accepting, takes what the kernel has accepted for it, answers all that it has, and ends. Ctrl-C (SIGINT)
skips the grace.

uvicorn alone closes idle connections first: a request on its way on one of them would be lost. It accepts
whom it can get, too; here a door keeps the workers even (`service.door`).
Knows nothing of the app but that it is one.
"""

import asyncio
import math
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import heap
from service.corked import Corked
from service.door import PATIENCE, Door
from service.tally import Tally

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Welcome = Callable[[socket.socket], Awaitable[None]]

KEEP_ALIVE_S = 75  # longer than the pools of clients and load balancers keep a connection: they close first
SWITCH_INTERVAL_S = 0.0005
LINGER_S = 1.0  # for a request that is on its way on an open connection when accepting ends


def run_worker(
    app: App,
    sock: socket.socket,
    *,
    tally: Tally,
    index: int,
    drain_grace_s: float,
    on_drain: Callable[[], None],
    on_connections: Callable[[int], None] | None = None,
    linger_s: float = LINGER_S,
    patience: int = PATIENCE,
) -> None:
    """Serve `app` on the listening `sock` until told to stop, then end in order and return.

    `tally` has the connections, and more, of each worker that shares the socket; this one is its number
    `index`, and leaves callers to others with `patience` (see `Door`). `on_connections` is told how many
    connections there are whenever that changes; `on_drain` is called once, on the event loop, when the grace
    of `drain_grace_s` seconds begins. After that an open connection has `linger_s` seconds for a request that
    is on its way.
    SystemExit where the app's lifespan fails to start; a worker told to stop before that dies of the signal.
    """
    # A version that loads beside the requests is Python too: the loop must not wait 5 ms each time it wakes.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    heap.keep_large_blocks_apart()
    door = partial(Door, sock, tally, index, patience=patience, on_change=on_connections)
    _Server(app, door, drain_grace_s, on_drain, linger_s).run([])


class _Server(uvicorn.Server):
    """uvicorn's server with a door and an end of its own; a subclass because its phases are methods."""

    def __init__(
        self,
        app: App,
        door: Callable[[Welcome], Door],
        drain_grace_s: float,
        on_drain: Callable[[], None],
        linger_s: float,
    ) -> None:
        self._app, self._drain_grace_s, self._on_drain = app, drain_grace_s, on_drain
        self._linger_s = linger_s
        self._door = door(self._welcome)
        self._signal: int | None = None
        self._stop_at = math.inf
        config = uvicorn.Config(
            self._answer,
            loop="uvloop",
            http=_Protocol,
            ws="none",
            interface="asgi3",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        super().__init__(config)
        self.server_state.connections = _Open(self._door.left)  # type: ignore[assignment]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn: let the app's lifespan start, then the callers in."""
        await super().startup(sockets)
        heap.settle()
        self._door.open()

    async def _welcome(self, connection: socket.socket) -> None:
        protocol: Callable[[], asyncio.Protocol] = partial(  # type: ignore[call-arg]  # as in uvicorn
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)

    def _answer(self, scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        """The app; an answer closes its connection where its client is better off elsewhere.

        That is while this worker drains, and when another has room that it had not when the client came.
        """

        def closing(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and (
                self._stop_at < math.inf or self._door.crowded()
            ):
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            return send(message)

        return self._app(scope, receive, closing if scope["type"] == "http" else send)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn for SIGTERM and SIGINT; it is not told, or would raise the signal at the end."""
        if not self.started:  # nothing has been accepted
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._signal = self._signal or sig

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; true ends the main loop."""
        if self._signal is not None and self._stop_at == math.inf:
            self._on_drain()
            grace_s = self._drain_grace_s if self._signal == signal.SIGTERM else 0.0
            self._stop_at = time.monotonic() + grace_s
        return await super().on_tick(counter) or time.monotonic() >= self._stop_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting; leave open connections a moment for what is on its way; let uvicorn do the rest."""
        await self._door.close()
        last = time.monotonic() + self._linger_s
        while self.server_state.connections and time.monotonic() < last:  # noqa: ASYNC110  there is no event
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol on a corked transport; a subclass because uvicorn makes the protocol itself."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Called by the loop."""
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]  # it is one in all it does


class _Open:
    """In place of uvicorn's set of open connections: one that tells when a connection leaves it."""

    def __init__(self, on_leave: Callable[[], None]) -> None:
        self._connections: set[object] = set()
        self._on_leave = on_leave

    def add(self, connection: object) -> None:
        self._connections.add(connection)

    def discard(self, connection: object) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._on_leave()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[object]:
        return iter(self._connections)
