"""A Redis of one's own on a free port of the loopback, which ends with its block; and what can befall it."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"
START_LIMIT_S = 20.0
PORTS = (10_000, 32_768)
"""Below those that the system gives away by itself."""


def installed() -> bool:
    """Is there a redis-server on this machine?"""
    return shutil.which("redis-server") is not None


class RedisServer:
    """A process of redis-server that keeps nothing on disk; it is started by `start`."""

    def __init__(self, folder: str) -> None:
        self.port = _free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run, empty, on the same port as ever; return once it answers.

        Raises:
            RuntimeError: it does not.
        """
        command = ["redis-server", "--port", str(self.port), "--bind", HOST, "--dir", self._folder]
        self._process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server does not answer on port {self.port}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and answers nothing, until the block ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A running Redis."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _free_port() -> int:
    """One that no connection is ever given: it stays free while the server is down."""
    while True:
        port = secrets.choice(range(*PORTS))
        with suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
            return port
