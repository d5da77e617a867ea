"""`rankserve loadtest`, from its options to what it prints, writes and exits with."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import cli
from service.loadtest import search
from tests.service.loadtest.stub import Asked, Rank, Stub, message, refusal, serving, slate

QUICK = ("--rate", "60", "--duration", "0.5", "--candidates", "10", "--timeout", "10")


async def loadtest(*options: object) -> Result:
    """The command, in a thread: the server that it asks is on this one's loop."""
    return await asyncio.to_thread(lambda: CliRunner().invoke(cli, ["loadtest", *map(str, options)]))


def text(done: Result) -> str:
    """What it printed, with no regard to where lines end."""
    return " ".join(done.output.split())


async def ranks_nothing(asked: Asked) -> bytes:
    """Refuses."""
    return refusal(422, "invalid")


async def a_proxy(asked: Asked) -> bytes:
    """Knows no such route."""
    return message(404, {"error": "not found"})


async def knows_nobody(asked: Asked) -> bytes:
    """Ranks strangers."""
    return slate(asked, defaults={"users": 1, "items": len(asked["candidates"])}, degraded=["redis"])


def only_the_first() -> Rank:
    """Answers the trial, and refuses whatever comes then."""
    answers = iter([slate])

    async def rank(asked: Asked) -> bytes:
        return next(answers, lambda _: refusal(429, "overloaded"))(asked)

    return rank


async def test_a_test_prints_and_writes_what_it_found(tmp_path: Path) -> None:
    """Percentiles, the service's own times, the generator's lateness, what has too few samples."""
    file = tmp_path / "found.json"
    async with serving(Stub()) as stub:
        done = await loadtest(stub.url, *QUICK, "--json", file, "--processes", "2", "--slo-p99-ms", "2000")
    assert done.exit_code == 0, done.output
    for words in ("p99.9", "service: rank", "lateness", "samples are too few", "v1", "400 items", "30 users"):
        assert words in text(done)
    found = json.loads(file.read_text())
    (run,) = found["runs"]
    assert run["planned"] == run["answered"] == len(stub.asked) - 1  # the first one was a trial
    assert (found["passed"], found["requests"]["items"], len(run["generator"]["cpu"])) == (True, 400, 2)
    generator = {name: found["generator"][name] for name in ("processes", "connections", "timeout_s")}
    assert generator == {"processes": 2, "connections": 32, "timeout_s": 10}
    assert run["latency_ms"]["p50"] <= run["latency_ms"]["max"]
    assert {len(set(asked["candidates"])) for asked in stub.asked} == {10}


@pytest.mark.parametrize(
    ("stub", "options", "words"),
    [
        (Stub(ready=message(503, {"status": "loading"})), (), "not ready (503; loading)"),
        (Stub(ready=message(503, {"status": "failed", "failed": {"v1": "broken"}})), (), "failed; broken"),
        (Stub(ready=message(200, "hello")), (), "is it a rankserve service?"),
        (Stub(ready=b"SSH-2.0-hello\r\n"), (), "cannot be asked"),
        (Stub(ready=b""), (), "cannot be asked"),
        (Stub(ready=message(503, {"problems": None, "failed": ["v1"]})), (), "not ready (503; unknown)"),
        (Stub(ready=message(200, {"rankers": None})), (), "tells of no rankers; is it a rankserve service?"),
        (Stub(a_proxy), (), "refused the first request with 404: not found"),
        (Stub(), ("--json", "no-such-folder/found.json"), "--json: no-such-folder is no folder"),
        (Stub(), ("--ranker", "feed"), "no ranker 'feed'"),
        (Stub(ranks_nothing), (), "422 invalid: user_id: not now"),
        (Stub(), ("--candidates", "401"), "401 candidates cannot differ with 400 items"),
        (Stub(), ("--items", "no-such-file"), "neither a number of ids nor a file"),
        (Stub(), ("--find-max", "--sweep", "auto"), "give one of them"),
        (Stub(), ("--sweep", "10,-1"), "write rates"),
        (Stub(), ("--sweep", "many"), "write rates"),
        (Stub(), ("--context", "hour"), "--context hour: write a field and its value"),
        (Stub(), ("--context", 'tab={"a": 1}'), "write a field and its value"),
        (Stub(), ("--processes", "4", "--connections", "3"), "lower --processes"),
    ],
)
async def test_what_cannot_be_tested_is_said_at_once(
    stub: Stub, options: tuple[str, ...], words: str
) -> None:
    """In one line with the fix, and with exit code 1."""
    async with serving(stub):
        done = await loadtest(stub.url, *QUICK, *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("rankserve: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize(
    "option", ["--rate", "--duration", "--timeout", "--slo-p99-ms", "--deadline-ms", "--zipf"]
)
async def test_a_number_without_an_end_is_refused(option: str, value: str) -> None:
    """As an option that is wrong, with its name; no service is asked."""
    done = await loadtest("http://127.0.0.1:9", option, value)
    assert done.exit_code == 2
    assert option in done.stderr


async def test_requests_bring_a_context(tmp_path: Path) -> None:
    """As it is given: JSON where it is some, else text; the report has it, too."""
    file = tmp_path / "found.json"
    given = ("hour=20", "tab=feed", 'zone="7"', "tags=[1, 2]", "note=", "new=true")
    options = [word for field in given for word in ("--context", field)]
    async with serving(Stub()) as stub:
        done = await loadtest(stub.url, *QUICK, *options, "--json", file)
    assert done.exit_code == 0, done.output
    context = {"hour": 20, "tab": "feed", "zone": "7", "tags": [1, 2], "note": "", "new": True}
    assert all(asked["context"] == context for asked in stub.asked)
    assert json.loads(file.read_text())["requests"]["context"] == context


async def test_nobody_there_is_said_at_once() -> None:
    """With how to start a service."""
    async with serving(Stub()) as stub:
        pass
    done = await loadtest(stub.url, *QUICK)
    assert (done.exit_code, "start a service with: rankserve serve" in done.stderr) == (1, True)


async def test_a_missing_library_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked."""
    there = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "matplotlib" else there(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    done = await loadtest("http://127.0.0.1:9", "--chart", "charts")
    assert (done.exit_code, "pip install 'rankserve[loadtest]'" in done.stderr) == (1, True)


async def test_errors_and_a_missed_objective_have_an_exit_code() -> None:
    """3, with the kinds of errors."""
    async with serving(Stub(only_the_first())) as stub:
        done = await loadtest(stub.url, *QUICK)
    assert done.exit_code == 3
    assert "429 overloaded" in text(done)
    assert "does not keep up" in text(done)
    async with serving(Stub()) as stub:
        done = await loadtest(stub.url, *QUICK, "--slo-p99-ms", "0.001")
    assert (done.exit_code, "misses the objective" in text(done)) == (3, True)


async def test_ids_of_ones_own_are_asked_for(tmp_path: Path) -> None:
    """Of users and items, and of a service that tells nothing of its ids."""
    items, users = tmp_path / "items", tmp_path / "users"
    items.write_text("".join(f"video-{at}\n" for at in range(20)))
    users.write_text("ann\nbob\n")
    async with serving(Stub(model=message(200, {"training": {}}))) as stub:
        done = await loadtest(stub.url, *QUICK, "--items", items, "--users", users)
        assert done.exit_code == 0, done.output
        asked, stub.asked = stub.asked, []
        done = await loadtest(stub.url, *QUICK)
    assert {one["user_id"] for one in asked} <= {"ann", "bob"}
    assert {id_ for one in asked for id_ in one["candidates"]} <= set(items.read_text().split())
    assert "5,000 items" in done.output


async def test_a_sweep_draws_its_rates(tmp_path: Path) -> None:
    """A table, a picture, and a page that fetches nothing."""
    folder = tmp_path / "charts"
    async with serving(Stub()) as stub:
        done = await loadtest(stub.url, *QUICK, "--sweep", "80,40", "--chart", folder, "--slo-p99-ms", "2000")
    assert done.exit_code == 0, done.output
    rates = [line.split()[0] for line in done.output.splitlines() if line.strip()[:2] in ("40", "80")]
    assert rates == ["40", "80"]
    assert (folder / "loadtest.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "loadtest.html").read_text()
    assert "<svg" in page
    assert not any(word in page for word in ("src=", "<script", "@import", "<link"))


async def test_a_sweep_tells_what_one_run_tells() -> None:
    """Each kind of note once, with the rates that it holds for."""
    async with serving(Stub(knows_nobody)) as stub:
        done = await loadtest(stub.url, *QUICK, "--sweep", "40,60,80")
    for words in (
        "100% of the items are unknown",
        "100% of the users are",
        "by the store that failed: redis",
    ):
        assert text(done).count(words) == 1
        assert re.search(f"At 40 requests/s: [^!]*{words}[^!]*Likewise at 60, 80", text(done))


async def test_a_sweep_of_its_own_rates_ends_beyond_capacity(tmp_path: Path) -> None:
    """One that begins there looks below; the chart shows rates without any answer, too."""
    folder = tmp_path / "charts"
    async with serving(Stub(only_the_first())) as stub:
        done = await loadtest(stub.url, *QUICK, "--sweep", "auto", "--chart", folder)
    assert done.exit_code == 3
    rates = [line.split()[0] for line in done.output.splitlines() if "overloaded" in line]
    assert rates[:5] == ["12", "24", "36", "48", "60"]
    assert "overloaded" in (folder / "loadtest.html").read_text()


async def test_find_max_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the highest rate that keeps the objective, in steps of three windows; none may keep it."""
    monkeypatch.setattr(search, "MOST_STEPS", 3)
    file = tmp_path / "found.json"
    options = (*QUICK, "--find-max", "--slo-p99-ms", "2000", "--json", file, "--rate", "20")
    async with serving(Stub()) as stub:
        done = await loadtest(stub.url, *options)
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert [(run["rate"], len(run["windows"])) for run in found["runs"]] == [(20, 3), (40, 3), (80, 3)]
    assert found["highest_rate"] == 80
    assert "80* requests/s is the highest rate" in text(done)  # ten requests a window are chance
    assert "holds*" in text(done)
    assert "At 20 requests/s: A window has too few samples for its p99" in text(done)
    assert "no higher one was tried" in text(done)
    async with serving(Stub(only_the_first())) as stub:
        done = await loadtest(stub.url, *options)
    assert (done.exit_code, "No rate keeps" in text(done)) == (3, True)
    assert json.loads(file.read_text())["highest_rate"] is None


async def test_sigterm_ends_the_generators_too() -> None:
    """At once and without a traceback; nothing is sent after the command has ended."""
    enough = asyncio.Event()

    async def rank(asked: Asked) -> bytes:
        if len(stub.asked) >= 10:
            enough.set()
        return slate(asked)

    async with serving(Stub(rank)) as stub:
        command = [sys.executable, "-m", "service.cli", "loadtest", stub.url, *QUICK, "--duration", "60"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        await enough.wait()
        process.send_signal(signal.SIGTERM)
        _, said = await process.communicate()
        asked = len(stub.asked)
        await asyncio.sleep(0.3)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in said
    assert len(stub.asked) == asked


def test_the_generator_knows_nothing_of_the_service() -> None:
    """Importing the command loads no module of service but its own."""
    code = "import sys, service.loadtest.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in done.stdout.split() if name.split(".")[0] == "service"]
    assert [name for name in loaded if not name.startswith("service.loadtest")] == ["service"]
