"""`rankserve` from the command line."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from service import cli
from service.bundle import deployment, store
from service.bundle.deployment import DeployedRanker, WorkerStatus
from service.errors import UnknownVersion
from service.supervisor import listen
from tests.service.toy import bundle
from tests.tiny import write_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two versions, of which no graph exists; one is deployed."""
    for version in ("v1", "v2"):
        store.write(tmp_path, version, partial(bundle, version))
    deployment.update(tmp_path, lambda present: present.having("feed", DeployedRanker(version="v2")))
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """A command in this process."""
    return CliRunner().invoke(cli.cli, [str(argument) for argument in arguments])


def outcome(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_bundles_list_is_a_table_or_json(models: Path) -> None:
    """Every version, with the rankers that are deployed with it."""
    shown = run("bundles", "list", "--models", models)
    assert shown.exit_code == 0
    assert "v1" in shown.stdout
    listed = json.loads(run("bundles", "list", "--models", models, "--json").stdout)
    assert [(one["version"], one["state"], one["rankers"]) for one in listed] == [
        ("v1", "stored", []),
        ("v2", "stored", ["feed"]),
    ]


def test_bundles_show_tells_what_a_version_claims(models: Path) -> None:
    """Tasks, features, formula, offline metrics."""
    shown = run("bundles", "show", "v1", "--models", models)
    assert shown.exit_code == 0
    for word in ("click", "watch", "regression", "duration", "auc", "0.7500", "groups"):
        assert word in shown.stdout
    assert json.loads(run("bundles", "show", "v1", "--models", models, "--json").stdout)["version"] == "v1"


def test_bundles_verify_proves_more_than_checksums(models: Path) -> None:
    """These have no graphs: the checksums agree, and it is refused with the reason and exit code 1."""
    shown = run("bundles", "verify", "v1", "--models", models)
    assert shown.exit_code == 1
    assert "sound" not in shown.stdout
    answer = json.loads(run("bundles", "verify", "v1", "--models", models, "--json").stdout)
    assert (answer["sound"], bool(answer["problem"])) == (False, True)


def test_promote_without_a_worker_proves_the_version_itself(models: Path) -> None:
    """Nobody else would before traffic meets it; what fails is not deployed."""
    done = outcome("promote", "v1", "--ranker", "feed", "--models", models)
    assert done.returncode == 1
    assert done.stderr.startswith("rankserve: ")
    assert "Traceback" not in done.stderr
    assert deployment.read(models).rankers["feed"].version == "v2"


def test_a_sound_version_is_verified_promoted_and_rolled_back(tmp_path: Path) -> None:
    """All of it without a service: the command loads the version itself."""
    for version in ("v1", "v2"):
        write_tiny(tmp_path, version)
    assert run("bundles", "verify", "v1", "--models", tmp_path).stdout.startswith("v1 is sound")
    answer = json.loads(run("bundles", "verify", "v1", "--models", tmp_path, "--json").stdout)
    assert answer == {"version": "v1", "sound": True, "problem": None}
    for version in ("v1", "v2"):
        done = run("promote", version, "--models", tmp_path)
        assert (done.exit_code, done.stdout.split()[:2]) == (0, ["default:", version])
    assert run("rollback", "--models", tmp_path).stdout.startswith("default: v1")
    assert deployment.read(tmp_path).rankers["default"].version == "v1"


def test_what_there_is_not_is_an_error(models: Path) -> None:
    """With the names that there are."""
    assert isinstance(run("bundles", "show", "no-such", "--models", models).exception, UnknownVersion)
    done = outcome("bundles", "show", "no-such", "--models", models)
    assert (done.returncode, done.stderr) == (1, "rankserve: no version 'no-such'; versions: v1, v2\n")
    assert outcome("rollback", "--ranker", "no-such", "--models", models).returncode == 1
    assert "nothing" in outcome("serve", "--models", models / "nothing").stderr


@pytest.mark.parametrize("command", [["promote", "v1"], ["rollback"], ["serve"]])
def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, command: Sequence[str]) -> None:
    """A typo is named, and leaves nothing behind."""
    done = outcome(*command, "--models", tmp_path / "modles")
    assert (done.returncode, "there is no folder" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_breaks_is_one_line(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a bundle does to its runtime, an operator reads one sentence and not a traceback."""

    def broken(*_: object) -> None:
        raise MemoryError("no 4 GB left")

    monkeypatch.setattr("service.app.loader", lambda *_: broken)
    monkeypatch.setattr("sys.argv", ["rankserve", "promote", "v1", "--models", str(models)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == "rankserve: v1 cannot be loaded: MemoryError: no 4 GB left"
    assert capsys.readouterr().err == ""
    assert deployment.read(models).rankers.keys() == {"feed"}


def report(models: Path, status: WorkerStatus) -> None:
    """Let a worker have told this, and be alive for as long as a command may take to start."""
    deployment.report(models, status)
    later = time.time() + 3_600
    os.utime(models / ".workers" / f"{status.worker}.json", (later, later))


@pytest.fixture
def hung(models: Path) -> WorkerStatus:
    """A worker that has v1 ready, and never does anything more."""
    now = time.time()
    status = WorkerStatus(
        worker="hung", pid=os.getpid(), host=deployment.this_host(), started=now, heartbeat=now,
        generation=99, ready=("v1",), rankers={"feed": "v2"},
    )  # fmt: skip
    report(models, status)
    return status


@pytest.mark.usefixtures("hung")
def test_workers_left_behind_are_a_failure(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 with the list: the ranker has moved, and not everywhere."""
    monkeypatch.setenv("RANKSERVE_SWAP_TIMEOUT_S", "0.3")
    done = outcome("promote", "v1", "--ranker", "feed", "--models", models)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == ["  hung: not within 0.3 s"]
    assert deployment.read(models).rankers["feed"].version == "v1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_promotion_that_is_stopped_unstages(
    models: Path, hung: WorkerStatus, number: signal.Signals
) -> None:
    """One line, exit code 1, and nothing that a worker would still load."""
    report(models, hung.model_copy(update={"ready": ()}))
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "promote",
        "v1",
        "--ranker",
        "feed",
        "--models",
        str(models),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        while deployment.read(models).rankers["feed"].staged is None:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said[:19]) == (1, "rankserve: stopped;")
    assert deployment.read(models).rankers["feed"].staged is None


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    """One line with the address, and no traceback."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = outcome("serve", "--models", tmp_path, "--port", port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"rankserve: cannot listen on 127.0.0.1:{port}: ")


def test_a_person_is_told_what_was_chosen(tmp_path: Path) -> None:
    """In words and not as lines of a log."""
    ours, theirs = pty.openpty()
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "service.cli",
        "serve",
        "--models",
        tmp_path,
        "--port",
        "0",
    ]
    service = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"RANKSERVE_WORKERS": "1"}, stderr=theirs)
    os.close(theirs)
    with os.fdopen(ours) as terminal:
        assert terminal.readline().startswith("this machine: ")
        assert terminal.readline() == "1 worker: as set\n"
        service.kill()
        service.wait()


@pytest.mark.parametrize("option", [["--port", "70000"], ["--workers", "0"], ["--provider", "tpu"]])
def test_bad_options_are_refused_by_name(models: Path, option: Sequence[str]) -> None:
    """Before anything starts."""
    shown = run("serve", "--models", models, *option)
    assert shown.exit_code == 2
    assert option[0].strip("-") in shown.stderr


def test_serve_starts_answers_and_ends_with_0(tmp_path: Path) -> None:
    """Two workers on a free port, alive with nothing deployed; SIGTERM ends them in order."""
    service = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--models", tmp_path, "--port", "0", "--workers", "2"],
        cwd=ROOT,
        env=os.environ | {"RANKSERVE_DRAIN_GRACE_S": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stderr is not None
        said: list[str] = []
        while not said or "listening" not in said[-1]:
            said.append(json.loads(service.stderr.readline())["message"])
        assert "2 workers: as set" in said
        address = re.search(r"http://[\d.]+:\d+", said[-1])
        assert address
        with httpx.Client(base_url=address[0], timeout=30) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").json()["status"] == "undeployed"
            assert client.post("/v1/rank", json={"candidates": [1]}).status_code == 503
            metrics = client.get("/metrics").text
            assert "rankserve_requests_total" in metrics
            assert re.search(r"rankserve_connections{pid=\"\d+\"} 1.0", metrics)
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
    finally:
        service.kill()
        service.communicate()
