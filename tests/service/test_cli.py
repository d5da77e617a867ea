"""`rankserve` from the command line."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from service import cli
from service.bundle import deployment, store
from service.bundle.deployment import DeployedRanker
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


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    """One line with the address, and no traceback."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = outcome("serve", "--models", tmp_path, "--port", port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"rankserve: cannot listen on 127.0.0.1:{port}: ")


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
        line = next(line for line in service.stderr if "listening" in line)
        address = re.search(r"http://[\d.]+:\d+", json.loads(line)["message"])
        assert address
        with httpx.Client(base_url=address[0], timeout=30) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").json()["status"] == "loading"
            assert client.post("/v1/rank", json={"candidates": [1]}).status_code == 503
            assert "rankserve_requests_total" in client.get("/metrics").text
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
    finally:
        service.kill()
        service.communicate()
