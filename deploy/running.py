"""A running service: its process, and a client of its HTTP interface."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.children import DemoError, child, ending, script, tail, until

HOST = "127.0.0.1"
ANSWER_LIMIT_S = 10.0
START_LIMIT_S = 120.0
SWAP_LIMIT_S = 150.0
"""More than the service itself waits for its workers: so its answer says what was wrong."""

Json = Mapping[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    """Asks over HTTP. Every call raises DemoError, with the service's own words where it says no."""

    http: httpx.Client

    def get(self, path: str) -> Answer:
        """The JSON of a route."""
        return self._ask("GET", path, None, ANSWER_LIMIT_S)

    def rank(self, request: Json) -> Answer:
        """The slate of a request."""
        return self._ask("POST", "/v1/rank", request, ANSWER_LIMIT_S)

    def promote(self, version: str) -> Answer:
        """Let the default ranker serve with that version; comes back once every worker does."""
        return self._ask("PUT", "/v1/rankers/default", {"version": version}, SWAP_LIMIT_S)

    def _ask(self, method: str, path: str, body: Json | None, limit_s: float) -> Answer:
        try:
            response = self.http.request(method, path, json=body, timeout=limit_s)
        except httpx.HTTPError as error:
            raise DemoError(f"{method} {path}: {type(error).__name__}: {error}") from None
        if response.is_error:
            raise DemoError(f"{method} {path} was answered with {response.status_code}: {response.text}")
        answer: Answer = response.json()
        return answer


@dataclass(frozen=True, slots=True)
class Service:
    """A service that was started, ready or not."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    client: Client

    def wait_ready(self, version: str, workers: int, limit_s: float = START_LIMIT_S) -> None:
        """Until every worker serves with the version. DemoError with the log's end where that fails."""
        try:
            until(lambda: self._missing(version, workers), limit_s)
        except DemoError as error:
            raise DemoError(f"{error}\n{self.last_words()}") from None

    def last_words(self) -> str:
        """The end of its log."""
        return f"The end of {self.log}:\n{tail(self.log) or '(nothing)'}"

    def _missing(self, version: str, workers: int) -> str | None:
        if (code := self.process.poll()) is not None:
            raise DemoError(f"the service ended with {ending(code)}")
        try:
            problems = self.client.get("/readyz")["problems"]
            live = self.client.get("/v1/workers")["workers"]
        except DemoError as error:
            return f"the service is not ready: {error}"
        if problems:
            return f"the service is not ready: {'; '.join(problems)}"
        serving = sum(worker["rankers"].get("default") == version for worker in live)
        return None if serving >= workers else f"{serving} of {workers} workers serve with {version}"


@contextmanager
def serving(models: Path, port: int, workers: int) -> Iterator[Service]:
    """A service on the loopback interface; it has ended when the block has. Port 0 takes a free one."""
    port = port or free_port()
    token, log, url = secrets.token_urlsafe(16), models / "service.log", f"http://{HOST}:{port}"
    command = [script("rankserve"), "serve", "--models", str(models), "--workers", str(workers)]
    command += ["--host", HOST, "--port", str(port)]
    http = httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        limits=httpx.Limits(max_keepalive_connections=0),  # a connection a request: all workers get some
        trust_env=False,  # no proxy on the way to this very machine
    )
    with (
        http,
        log.open("wb") as written,
        child(command, stdout=written, stderr=written, env=environment(os.environ, token)) as process,
    ):
        yield Service(process, url, log, Client(http))


def environment(given: Mapping[str, str], token: str) -> dict[str, str]:
    """The demo's settings, in place of those that the caller's environment may have for another service."""
    others = {name: value for name, value in given.items() if not name.startswith("RANKSERVE_")}
    return others | {
        "RANKSERVE_TOKEN": token,
        "RANKSERVE_ALLOW_REQUEST_FUSION": "1",
        "RANKSERVE_DRAIN_GRACE_S": "0",  # there is no load balancer that would need it
    }


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as sock:
        port: int = sock.getsockname()[1]
    return port
