"""Binds the listening socket once, keeps the workers alive, and ends them in order.

The socket outlives every worker: while one is respawned the others accept, and where there is none the
kernel holds the callers. A worker that fails, at start too, comes back after a growing delay, for ever: the
others go on, and what made it fail may pass. Told to stop, the supervisor lets go of the socket and passes
the signal on; workers end by themselves (`service.worker`), or are killed at the drain limit.

uvicorn's own supervisor can't: a worker that fails to start stops it, and it respawns without a delay.
Knows nothing of what a worker does: it is a command line. Both ends of what passes between the two are here.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from service import tally
from service.folders import own_folder
from service.tally import AWAY, Tally

logger = logging.getLogger(__name__)

_INDEX, _LISTEN_FD, _LIFELINE_FD = "RANKSERVE_WORKER_INDEX", "RANKSERVE_LISTEN_FD", "RANKSERVE_LIFELINE_FD"
_TALLY_FD = "RANKSERVE_TALLY_FD"
_METRICS, _STATE = "PROMETHEUS_MULTIPROC_DIR", "RANKSERVE_STATE_DIR"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLEAN = {
    0,
    *(-number for number in _STOP_SIGNALS),
}  # a worker that has not begun to serve dies of the signal


@dataclass(frozen=True, slots=True)
class Respawn:
    """How long to wait before a worker that ended is started again."""

    first_s: float = 0.1
    most_s: float = 30.0
    healthy_s: float = 60.0

    def delay_s(self, last_s: float, lived_s: float) -> float:
        """Twice the last delay, within `first_s` and `most_s`; the first again after `healthy_s` of life."""
        return self.first_s if lived_s >= self.healthy_s else min(max(2 * last_s, self.first_s), self.most_s)


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker has of its supervisor: its number, from 0, and what all workers share.

    That is the listening socket, and the tally of what each of them has and does.
    """

    index: int
    sock: socket.socket
    tally: Tally


def listen(host: str, port: int, *, backlog: int = 2048) -> socket.socket:
    """A listening socket; port 0 takes a free one, "::" IPv4 as well. OSError where the address is taken."""
    return socket.create_server(
        (host, port),
        family=socket.AF_INET6 if ":" in host else socket.AF_INET,
        backlog=backlog,
        dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
    )


def address(sock: socket.socket) -> str:
    """Where the socket listens, as `http://host:port`."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def inherited() -> Place:
    """In a worker: its place. From here on it dies with its supervisor, however that ends."""
    try:
        names = (_INDEX, _LISTEN_FD, _TALLY_FD, _LIFELINE_FD)
        index, listen_fd, tally_fd, lifeline_fd = (int(os.environ[name]) for name in names)
    except KeyError as missing:
        raise RuntimeError(f"{missing} is not set: a worker is started by `rankserve serve` only") from None
    threading.Thread(target=_die_at_end_of, args=(lifeline_fd,), name="lifeline", daemon=True).start()
    return Place(index, socket.socket(fileno=listen_fd), Tally(tally_fd))


def _die_at_end_of(lifeline_fd: int) -> None:
    os.read(lifeline_fd, 1)  # nothing is ever written: it ends when the last holder of the other end has
    os._exit(1)


class Supervisor:
    """Workers, and the socket they share. `run` is its life; `stop` ends it."""

    def __init__(
        self,
        command: Sequence[str],
        sock: socket.socket,
        *,
        workers: int,
        environment: Mapping[str, str] | None = None,
        drain_limit_s: float = 60.0,
        respawn: Respawn | None = None,
        on_death: Callable[[int, str], None] | None = None,
    ) -> None:
        """`command` starts a worker, with `environment` on top of this process's own; `sock` is now ours.

        `on_death(pid, metrics_dir)` hears of every worker that ended, where there is more than one:
        prometheus' `mark_process_dead` fits.
        """
        self._command, self._sock, self._count, self._on_death = command, sock, workers, on_death
        self._drain_limit_s, self._respawn = drain_limit_s, respawn or Respawn()
        self._environment = {**os.environ, **(environment or {})}
        self._inherit: tuple[int, ...] = ()
        self._alive: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        """Keep the workers alive until stopped. The exit code: 0 where each ended cleanly, else 1."""
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            self._prepare(stack)
            for number in _STOP_SIGNALS:
                loop.add_signal_handler(number, self.stop, number)
                stack.callback(loop.remove_signal_handler, number)
            logger.info("listening on %s with %d workers", address(self._sock), self._count)
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(index)) for index in range(self._count)]
                await self._stopping.wait()
                self._sock.close()  # the last worker to stop accepting closes the port
                _, late = await asyncio.wait(keepers, timeout=self._drain_limit_s)
                if late:
                    logger.error(
                        "%d workers have not ended in %.0f s; killed", len(late), self._drain_limit_s
                    )
                    self._tell(signal.SIGKILL)
            return 0 if all(keeper.result() in _CLEAN for keeper in keepers) else 1

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Let the workers drain and end; told twice, kill them."""
        if self._stopping.is_set():
            self._tell(signal.SIGKILL)
            return
        logger.info("%s: the workers drain", number.name)
        self._signal = number
        self._stopping.set()
        self._tell(number)

    def _prepare(self, stack: ExitStack) -> None:
        """What workers are handed: socket, tally, lifeline, and folders for what they share."""
        lifeline, ours = os.pipe()
        stack.callback(os.close, ours)
        stack.callback(os.close, lifeline)
        stack.callback(self._sock.close)
        shared = tally.make(self._count)
        stack.callback(os.close, shared)
        self._tally = Tally(shared)
        inherited = {_LISTEN_FD: self._sock.fileno(), _TALLY_FD: shared, _LIFELINE_FD: lifeline}
        self._inherit = tuple(inherited.values())
        self._environment |= {name: str(fd) for name, fd in inherited.items()}
        if self._count > 1:
            for name, place in ((_METRICS, None), (_STATE, self._environment.get(_STATE))):
                self._environment[name] = stack.enter_context(own_folder(place))

    async def _keep(self, index: int) -> int:
        """A worker, again and again; its last exit code once the supervisor stops."""
        loop = asyncio.get_running_loop()
        delay_s = 0.0
        while not self._stopping.is_set():
            born = loop.time()
            code = await self._live(index)
            if self._stopping.is_set():
                return code
            delay_s = self._respawn.delay_s(delay_s, loop.time() - born)
            logger.error("worker %d ended with %s; again in %g s", index, _ending(code), delay_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
        return 0

    async def _live(self, index: int) -> int:
        """One life of a worker: its exit code, negative for a signal."""
        try:
            worker = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=DEVNULL,
                env={**self._environment, _INDEX: str(index)},
                pass_fds=self._inherit,
                process_group=0,  # Ctrl-C reaches the supervisor alone: a worker hears of it once
            )
        except OSError as error:
            logger.error("worker %d cannot be started: %s", index, error)
            return os.EX_OSERR
        self._alive[index] = worker
        logger.info("worker %d has pid %d", index, worker.pid)
        if self._stopping.is_set():  # while it was being started
            self._tell(self._signal, worker)
        code = await worker.wait()
        del self._alive[index]
        self._tally[index] = AWAY
        self._tally.take(index, 0)
        self._bury(worker.pid)
        return code

    def _tell(self, number: signal.Signals, *workers: Process) -> None:
        for worker in workers or self._alive.values():
            with suppress(ProcessLookupError):  # it has ended by itself
                worker.send_signal(number)

    def _bury(self, pid: int) -> None:
        if self._on_death is None or _METRICS not in self._environment:
            return
        try:
            self._on_death(pid, self._environment[_METRICS])
        except Exception:
            logger.exception("on_death failed for pid %d; the supervisor goes on", pid)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
