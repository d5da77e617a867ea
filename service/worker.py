"""A worker process: an ASGI app on the socket that the supervisor keeps, and an orderly end.

Told to stop (SIGTERM) a worker first says so: readiness turns traffic away and every answer closes its
connection, while it goes on accepting for a grace, so that load balancers can notice. Then it stops
accepting, takes what the kernel has accepted for it, answers all that it has, and ends. Ctrl-C (SIGINT)
skips the grace.

uvicorn alone closes idle connections first: a request on its way on one of them would be lost.
Knows nothing of the app but that it is one.
"""

import asyncio
import math
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from service import heap

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

KEEP_ALIVE_S = 75  # longer than the pools of clients and load balancers keep a connection: they close first
SWITCH_INTERVAL_S = 0.0005
LINGER_S = 1.0  # for a request that is on its way on an open connection when accepting ends


def run_worker(
    app: App,
    sock: socket.socket,
    *,
    drain_grace_s: float,
    on_drain: Callable[[], None],
    linger_s: float = LINGER_S,
) -> None:
    """Serve `app` on the listening `sock` until told to stop, then end in order and return.

    `on_drain` is called once, on the event loop, when the grace of `drain_grace_s` seconds begins. After that
    an open connection has `linger_s` seconds for a request that is on its way.
    SystemExit where the app's lifespan fails to start; a worker told to stop before that dies of the signal.
    """
    # A version that loads beside the requests is Python too: the loop must not wait 5 ms each time it wakes.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    heap.keep_large_blocks_apart()
    _Server(app, drain_grace_s, on_drain, linger_s).run([sock])


class _Server(uvicorn.Server):
    """uvicorn's server with an end of its own; a subclass because signals and ticks are methods there."""

    def __init__(self, app: App, drain_grace_s: float, on_drain: Callable[[], None], linger_s: float) -> None:
        self._app, self._drain_grace_s, self._on_drain = app, drain_grace_s, on_drain
        self._linger_s = linger_s
        self._signal: int | None = None
        self._stop_at = math.inf
        config = uvicorn.Config(
            self._answer,
            loop="uvloop",
            http="httptools",
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

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """The app; while draining, every answer closes its connection and so sends its client elsewhere."""

        async def closing(message: Message) -> None:
            if self._stop_at < math.inf and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)

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
        listeners = [sock.dup() for sock in sockets or ()]
        for server in self.servers:
            server.close()
        for listener in listeners:
            await self._accept_rest(listener)
        last = time.monotonic() + self._linger_s
        while self.server_state.connections and time.monotonic() < last:  # noqa: ASYNC110  there is no event
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _accept_rest(self, listener: socket.socket) -> None:
        """Take the connections that the kernel has accepted and no worker has: closing would reset them."""
        protocol: Callable[[], asyncio.Protocol] = partial(  # type: ignore[call-arg]  # as in uvicorn
            self.config.http_protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        with listener:
            listener.setblocking(False)
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # none is left
                    return
                await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
