"""A client that tells what is wrong, and a start that is waited for no longer than it can come."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.children import DemoError, child
from deploy.running import Client, Service, environment, free_port

Respond = Callable[[httpx.Request], httpx.Response]


@contextmanager
def answering(respond: Respond) -> Iterator[Client]:
    """A client whose requests that function answers."""
    with httpx.Client(transport=httpx.MockTransport(respond), base_url="http://service") as http:
        yield Client(http)


@contextmanager
def started(respond: Respond, folder: Path, code: str = "import time; time.sleep(60)") -> Iterator[Service]:
    """A service whose process runs that code, and answers so."""
    log = folder / "service.log"
    log.write_text('{"level": "error", "message": "the last words"}\n')
    with answering(respond) as client, child([sys.executable, "-c", code]) as process:
        yield Service(process, "http://service", log, client)


def workers(*versions: str, problems: tuple[str, ...] = ()) -> Respond:
    """Ready, with workers that serve so."""

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(200, json={"problems": list(problems)})
        return httpx.Response(200, json={"workers": [{"rankers": {"default": one}} for one in versions]})

    return respond


def test_a_request_is_sent_as_it_is() -> None:
    """And the answer given back."""

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"method": request.method, "sent": json.loads(request.content)})

    with answering(respond) as client:
        assert client.rank({"user_id": "7"}) == {"method": "POST", "sent": {"user_id": "7"}}
        assert client.promote("v2") == {"method": "PUT", "sent": {"version": "v2"}}


def test_a_refusal_is_told_in_the_services_words() -> None:
    """With the route and the status; so is a connection that breaks."""

    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(422, text="candidates: the list is empty")

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with (
        answering(refuse) as client,
        pytest.raises(DemoError, match=r"POST /v1/rank .* 422: candidates: the"),
    ):
        client.rank({})
    with answering(fail) as client, pytest.raises(DemoError, match="GET /readyz: ConnectError: refused"):
        client.get("/readyz")


def test_a_service_is_ready_when_every_worker_serves_the_version(tmp_path: Path) -> None:
    """One that serves another does not count, and the error says how many do."""
    with started(workers("v1", "v1"), tmp_path) as service:
        service.wait_ready("v1", workers=2, limit_s=60)
    with (
        started(workers("v1", "v0"), tmp_path) as service,
        pytest.raises(DemoError, match="1 of 2 workers serve with v1"),
    ):
        service.wait_ready("v1", workers=2, limit_s=0.01)


def test_a_service_with_problems_is_not_ready(tmp_path: Path) -> None:
    """It may serve the previous version and say so."""
    with (
        started(workers("v1", problems=("default: v1 is broken",)), tmp_path) as service,
        pytest.raises(DemoError, match=r"v1 is broken\nThe end of .*\nerror   the last words"),
    ):
        service.wait_ready("v1", workers=1, limit_s=0.01)


def test_a_service_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    """The error has its exit code and the end of its log."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with (
        started(refuse, tmp_path, code="raise SystemExit(3)") as service,
        pytest.raises(DemoError, match=r"ended with exit code 3\nThe end of .*\nerror   the last words"),
    ):
        service.wait_ready("v1", workers=1, limit_s=60)


def test_settings_of_another_service_do_not_count() -> None:
    """The rest of the environment does."""
    made = environment({"PATH": "/bin", "RANKSERVE_DEADLINE_MS": "1", "RANKSERVE_TOKEN": "theirs"}, "ours")
    assert made["PATH"] == "/bin"
    assert made["RANKSERVE_TOKEN"] == "ours"
    assert "RANKSERVE_DEADLINE_MS" not in made


def test_a_free_port_can_be_listened_on() -> None:
    """By another process, unless a third was faster."""

    def listened_on() -> bool:
        code = f"import socket; socket.create_server(('127.0.0.1', {free_port()})).close()"
        return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    assert any(listened_on() for _ in range(3))
