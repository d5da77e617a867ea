"""A service to measure: `rankserve serve` on a free port of the loopback, which ends with its block."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, WorkerStatus

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[1]
START_LIMIT_S = 300.0
END_LIMIT_S = 60.0
ANSWER_LIMIT_S = 330.0
"""More than a promotion may take."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    """of the supervisor"""
    models: Path
    port: int
    workers: int
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def live(self) -> list[WorkerStatus]:
        """What its live workers tell."""
        return deployment.live(self.models)

    def all_serve(self, version: str | None = None) -> bool:
        """Does every worker serve with the version, or with whatever is deployed?"""
        serving = [status.rankers.get("default") for status in self.live()]
        wanted = version or deployment.read(self.models).rankers["default"].version
        return serving == [wanted] * self.workers

    def wait_ready(self) -> None:
        """Return once every worker serves with what is deployed and one says so over HTTP.

        Raises:
            RuntimeError: the service ended, or was not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while not (self.all_serve() and self._answers()):
            if (code := self.process.poll()) is not None:
                raise RuntimeError(f"the service ended with {code}\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the service is not ready\n{self.last_words()}")
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> httpx.Response:
        """Ask anything, on a connection of its own; blocks. httpx.TransportError where no answer comes."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.request(
            method, self.url + path, json=body, headers=headers, timeout=ANSWER_LIMIT_S, trust_env=False
        )

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.ask("GET", "/readyz").status_code == 200
        return False


@contextmanager
def serving(models: Path, *, workers: int, **settings: Any) -> Iterator[Service]:
    """Serve what is deployed in a models folder, from the moment that every worker is ready.

    Args:
        models: folder of the bundles; their deployment names the ranker `default`.
        workers: how many.
        settings: others of the service's settings, by name; it ranks in float32 if they say nothing else.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "service.log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                cwd=ROOT,
                env=_environment(
                    **{"models": models, "workers": workers, "host": HOST, "port": 0, "precision": "float32"}
                    | settings
                ),
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                process_group=0,
            )
        try:
            service = Service(process, models, _port(process, log), workers, log)
            service.wait_ready()
            yield service
        finally:
            _end(process)


@contextmanager
def deployed(models: Path, versions: Sequence[str]) -> Iterator[Path]:
    """A models folder of its own with some versions of another, the first of them deployed.

    The bundles are links: nothing is copied, and the other folder's deployment stays as it is.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in versions:
            (folder / version).symlink_to((models / version).resolve(strict=True), target_is_directory=True)
        deployment.update(folder, lambda now: now.having("default", DeployedRanker(version=versions[0])))
        yield folder


def end_on_sigterm() -> None:
    """Let SIGTERM end this process by way of every `finally`, so that what it started ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _environment(**settings: Any) -> dict[str, str]:
    """The caller's, with no settings of a service but these."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RANKSERVE_")}
    return others | {f"RANKSERVE_{name.upper()}": str(value) for name, value in settings.items()}


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the supervisor says it listens on."""
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines(keepends=True):
            if "listening on" in line and line.endswith("\n"):
                found = re.search(r"http://[\d.]+:(\d+)", json.loads(line)["message"])
                assert found is not None
                return int(found[1])
        time.sleep(0.02)
    raise RuntimeError(f"the service does not listen\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Tell the service to end, and kill it where it does not; its workers die with it."""
    try:
        process.send_signal(signal.SIGINT)  # which skips the grace
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_LIMIT_S)
    finally:
        process.kill()
        process.wait()
