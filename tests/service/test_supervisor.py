"""The supervisor: one socket for all workers, which come back as long as it wants them, and end in order."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.supervisor import Respawn, Supervisor, address, inherited, listen

# Tells each caller who it is, and some more that the tests ask for.
SERVE = """
import os, signal, sys
from service.supervisor import inherited
place = inherited()
if place.index == int(os.environ.get("TEST_BROKEN", -1)):
    sys.exit(3)
stop = os.environ.get("TEST_STOP")
if stop == "never":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
if stop == "badly":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
while True:
    caller, _ = place.sock.accept()
    caller.sendall(f"{place.index} {os.getpid()} {os.environ.get('PROMETHEUS_MULTIPROC_DIR')}".encode())
    caller.close()
"""
SWIFT = Respawn(first_s=0.01, most_s=0.05, healthy_s=600)


@dataclass
class Run:
    """A supervisor at work."""

    supervisor: Supervisor
    url: str
    port: int
    code: asyncio.Task[int]

    async def ask(self) -> tuple[int, int, str]:
        """Index, pid and metrics folder of whichever worker answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        index, pid, folder = (await reader.read()).decode().split(" ", 2)
        writer.close()
        return int(index), int(pid), folder

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for it; a supervisor that ends meanwhile has failed."""
        while not happened():
            assert not self.code.done()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def supervised(*command: str, workers: int = 1, **options: Any) -> AsyncIterator[Run]:
    """Workers of that command, or such as answer; they are gone in the end."""
    sock = listen("127.0.0.1", 0)
    url, port = address(sock), sock.getsockname()[1]
    supervisor = Supervisor(
        command or (sys.executable, "-c", SERVE), sock, workers=workers, **{"respawn": SWIFT, **options}
    )
    run = Run(supervisor, url, port, asyncio.create_task(supervisor.run()))
    try:
        async with asyncio.timeout(30):
            yield run
    finally:
        supervisor.stop()
        supervisor.stop()
        await run.code


def is_folder(path: str) -> bool:
    """Whether it is there."""
    return Path(path).is_dir()


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_the_port_is_taken_when_listen_returns(host: str) -> None:
    """A free port is found, its address told, and a second service on it is refused at once."""
    try:
        sock = listen(host, 0)
    except OSError:
        pytest.skip(f"no {host} here")
    with sock:
        port = sock.getsockname()[1]
        assert address(sock).endswith(f":{port}")
        assert ("[" in address(sock)) == (":" in host)
        with pytest.raises(OSError, match="in use"):
            listen(host, port)
        with socket.create_connection(("::1" if ":" in host else "127.0.0.1", port)):
            pass


def test_the_delay_doubles_up_to_a_limit_and_is_forgiven_after_a_healthy_life() -> None:
    """Worker after worker that dies young waits longer; one that lived starts anew."""
    respawn = Respawn(first_s=1, most_s=5, healthy_s=60)
    delays = [0.0]
    for _ in range(5):
        delays.append(respawn.delay_s(delays[-1], lived_s=3))
    assert delays[1:] == [1, 2, 4, 5, 5]
    assert respawn.delay_s(5, lived_s=60) == 1


async def test_workers_share_the_socket_and_know_their_place() -> None:
    """Each has its own index and pid; both answer on the one port."""
    async with supervised(workers=2) as run:
        seen: dict[int, int] = {}
        while len(seen) < 2:
            index, pid, _ = await run.ask()
            assert seen.setdefault(index, pid) == pid
        assert sorted(seen) == [0, 1]
        run.supervisor.stop()
        assert await run.code == 0
        with pytest.raises(ConnectionRefusedError):
            await run.ask()


async def test_a_killed_worker_comes_back_on_the_same_port() -> None:
    """Who calls meanwhile waits and is answered; the death is told with the pid and the metrics folder."""
    deaths: list[tuple[int, str]] = []
    async with supervised(workers=2, on_death=lambda pid, folder: deaths.append((pid, folder))) as run:
        index, pid, folder = await run.ask()
        os.kill(pid, signal.SIGKILL)
        await run.until(lambda: bool(deaths))
        assert deaths == [(pid, folder)]
        again = (index, pid)
        while again[0] != index or again[1] == pid:
            again = (await run.ask())[:2]
        assert is_folder(folder)
    assert not is_folder(folder)


async def test_a_worker_that_fails_at_start_is_tried_again_ever_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its exit code is logged, the delay grows, and the other worker serves all the while."""
    async with supervised(workers=2, environment={"TEST_BROKEN": "1"}) as run:
        for delay in ("0.01", "0.02", "0.04", "0.05"):
            line = f"worker 1 ended with exit code 3; again in {delay} s"
            await run.until(lambda line=line: line in caplog.text)  # type: ignore[misc]
            assert (await run.ask())[0] == 0
        run.supervisor.stop()
        assert await run.code == 0
    assert "worker 0 ended" not in caplog.text


async def test_a_command_that_does_not_exist_is_tried_again_too(caplog: pytest.LogCaptureFixture) -> None:
    """The supervisor never gives up: what is missing may come."""
    async with supervised("/nonexistent/worker", workers=1) as run:
        await run.until(lambda: caplog.text.count("cannot be started") > 2)
        run.supervisor.stop()
        assert await run.code == 0


async def test_stopping_does_not_wait_for_a_respawn(caplog: pytest.LogCaptureFixture) -> None:
    """A worker between two lives has nothing to finish."""
    respawn = Respawn(first_s=600, most_s=600)
    async with supervised(sys.executable, "-c", "raise SystemExit(7)", respawn=respawn) as run:
        await run.until(lambda: "again in 600 s" in caplog.text)
        run.supervisor.stop()
        assert await run.code == 0


@pytest.mark.parametrize("turns", range(6))
async def test_stopping_as_workers_are_started_reaches_them_all(turns: int) -> None:
    """None is left behind, and none is started afterwards, at whatever turn of the loop it comes."""
    async with supervised(workers=3) as run:
        for _ in range(turns):
            await asyncio.sleep(0)
        run.supervisor.stop()
        assert await run.code == 0


async def test_a_worker_that_does_not_end_is_killed_at_the_drain_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit holds, and the exit code tells that the drain was not clean."""
    async with supervised(environment={"TEST_STOP": "never"}, drain_limit_s=0.2) as run:
        await run.ask()
        run.supervisor.stop()
        assert await run.code == 1
    assert "1 workers have not ended" in caplog.text


async def test_told_twice_it_kills() -> None:
    """A second signal does not wait for the limit."""
    async with supervised(environment={"TEST_STOP": "never"}, drain_limit_s=600) as run:
        await run.ask()
        run.supervisor.stop(signal.SIGINT)
        run.supervisor.stop(signal.SIGINT)
        assert await run.code == 1


async def test_a_worker_that_ends_badly_shows_in_the_exit_code() -> None:
    """A drain is clean if every worker says so."""
    async with supervised(environment={"TEST_STOP": "badly"}) as run:
        await run.ask()
        run.supervisor.stop()
        assert await run.code == 1


async def test_a_death_that_cannot_be_told_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Telemetry cannot keep a worker from coming back."""

    def fail(pid: int, folder: str) -> None:
        raise OSError(f"no file for {pid}")

    async with supervised(workers=2, on_death=fail) as run:
        _, pid, _ = await run.ask()
        os.kill(pid, signal.SIGKILL)
        await run.until(lambda: f"on_death failed for pid {pid}" in caplog.text)
        await run.until(lambda: caplog.text.count("has pid") == 3)


async def test_workers_share_a_folder_for_state(tmp_path: Path) -> None:
    """In the one that was asked for; it goes with the last of them."""
    async with supervised(workers=2, environment={"RANKSERVE_STATE_DIR": str(tmp_path)}) as run:
        await run.ask()
        (folder,) = tmp_path.iterdir()  # noqa: ASYNC240  a test waits for nothing else
        assert is_folder(str(folder))
        run.supervisor.stop()
        assert await run.code == 0
    assert not is_folder(str(folder))


async def test_one_worker_alone_shares_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to share them with, and no death to tell."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    async with supervised(workers=1, on_death=lambda pid, folder: pytest.fail("told")) as run:
        assert (await run.ask())[2] == "None"
        run.supervisor.stop()
        assert await run.code == 0


def test_a_worker_without_a_supervisor_is_told_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names what is missing and what to run."""
    monkeypatch.delenv("RANKSERVE_LISTEN_FD", raising=False)
    monkeypatch.setenv("RANKSERVE_WORKER_INDEX", "0")
    with pytest.raises(RuntimeError, match=r"RANKSERVE_LISTEN_FD.*rankserve serve"):
        inherited()
