"""The service as it runs: `rankserve serve`, its workers, real bundles, and what can befall them."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from benchmarks.load import Pool, in_parallel
from benchmarks.running import Service, deployed, serving
from service.bundle import deployment
from service.bundle.manifest import Manifest
from service.cli import cli
from service.errors import SwapRefused
from tests.service.answers import Expected, body, various_requests
from tests.service.running import Truth, kinds, load, more, reach, sent, until, versions
from tests.tiny import Tiny, write_tiny

TOKEN = "s3cret"
SETTINGS: dict[str, Any] = {"provider": "cpu", "deadline_ms": 10_000}
"""A deadline that no busy machine misses."""
REQUESTS = various_requests()
SENT = sent(REQUESTS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tiny]:
    """Versions v1 and v2: the same tables and other weights."""
    bundles = tmp_path_factory.mktemp("bundles")
    return {version: write_tiny(bundles, version, seed=seed) for seed, version in enumerate(("v1", "v2"))}


@pytest.fixture(scope="module")
def truth(tiny: dict[str, Tiny]) -> Truth:
    """What every request gets, by version."""
    return {
        version: [Expected.of(bundle, request) for request in REQUESTS] for version, bundle in tiny.items()
    }


@pytest.fixture(scope="module")
def bundles(tiny: dict[str, Tiny]) -> Path:
    """The folder of both."""
    return tiny["v1"].folder.parent


@pytest.fixture(scope="module")
def one_worker(bundles: Path) -> Iterator[Service]:
    """A service of one worker, without a token, for v1."""
    with deployed(bundles, ["v1"]) as models, serving(models, workers=1, **SETTINGS) as service:
        yield service


@pytest.fixture(scope="module")
def two_workers(bundles: Path) -> Iterator[Service]:
    """A service of two workers, with a token."""
    with (
        deployed(bundles, ["v1", "v2"]) as models,
        serving(models, workers=2, token=TOKEN, **SETTINGS) as service,
    ):
        yield service


@pytest.fixture
def service(two_workers: Service) -> Service:
    """The service of two workers; it serves v1, and before that it served v2."""
    ranker = deployment.read(two_workers.models).rankers["default"]
    if (ranker.version, ranker.previous) != ("v1", "v2"):
        for version in ("v2", "v1"):
            assert promote(two_workers, version).status_code == 200
    return two_workers


def promote(service: Service, version: str, token: str | None = TOKEN) -> httpx.Response:
    """Ask for a version."""
    return service.ask("PUT", "/v1/rankers/default", {"version": version}, token)


def answered_by(service: Service) -> str:
    """The version that answers."""
    version: str = service.ask("POST", "/v1/rank", body(REQUESTS[0])).json()["version"]
    return version


@pytest.mark.parametrize("name", ["one_worker", "two_workers"])
@pytest.mark.parametrize("at_a_time", [1, 8])
async def test_scores_over_http_are_the_models(
    request: pytest.FixtureRequest, truth: Truth, name: str, at_a_time: int
) -> None:
    """Every task's score and the fused one as numpy computes them, singly and under concurrency."""
    service = request.getfixturevalue(name)
    async with Pool(service.port) as pool:
        outcomes = await in_parallel(pool, SENT, at_a_time)
    assert kinds(outcomes) == {"ok": len(REQUESTS)}
    assert len(set(versions(outcomes, truth))) == 1


async def test_swaps_under_load_mix_nothing_and_lose_nothing(service: Service, truth: Truth) -> None:
    """No error; every answer has exactly the scores of the one version it names; all workers follow."""
    async with Pool(service.port, greets=True) as pool, load(pool, SENT) as outcomes:
        await reach(pool, service)
        for version in ("v2", "v1", "v2"):
            await more(outcomes)
            answer = await asyncio.to_thread(promote, service, version)
            assert (answer.status_code, len(answer.json()["workers"])) == (200, 2), answer.text
            moved = asyncio.get_running_loop().time()
            await more(outcomes)
            begun_since = [outcome for outcome in outcomes if outcome.sent > moved]
            assert set(versions(begun_since, truth)) == {version}
        back = await asyncio.to_thread(service.ask, "POST", "/v1/rankers/default/rollback", None, TOKEN)
        assert (back.status_code, back.json()["version"]) == (200, "v1")
        assert service.all_serve("v1")
    assert kinds(outcomes).keys() == {"ok"}
    assert set(versions(outcomes, truth)) == {"v1", "v2"}


def flip_a_bit(folder: Path) -> None:
    """In the middle of a graph."""
    graph = bytearray((folder / "rank.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (folder / "rank.onnx").write_bytes(graph)


def cut(folder: Path) -> None:
    """Off the end of a table."""
    content = (folder / "items.npz").read_bytes()
    (folder / "items.npz").write_bytes(content[:-100])


def other_task(manifest: Manifest) -> Manifest:
    """Claims a task that the graphs do not have."""
    click, like, watch = manifest.tasks
    return manifest.model_copy(update={"tasks": (click, like, watch.model_copy(update={"name": "share"}))})


def other_schema(manifest: Manifest) -> Manifest:
    """Claims one feature less than the graphs read."""
    left = tuple(feature for feature in manifest.features.features if feature.name != "cover")
    features = manifest.features.model_copy(update={"features": left})
    return manifest.model_copy(update={"features": features})


BROKEN: dict[str, tuple[dict[str, Any], Callable[[Path], object], str]] = {
    "flipped": ({}, flip_a_bit, "rank.onnx was truncated or altered"),
    "cut": ({}, cut, "items.npz was truncated or altered"),
    "missing": ({}, lambda folder: (folder / "user.onnx").unlink(), "user.onnx is missing"),
    "other-task": ({"alter": other_task}, lambda _: None, "watch"),
    "other-schema": ({"alter": other_schema}, lambda _: None, "item_value"),
    "not-golden": ({"golden_error": 1e-3}, lambda _: None, "apart from its golden scores"),
}
"""version -> how it is written, what befalls it then, and the reason that names it"""


@pytest.mark.parametrize("version", BROKEN)
async def test_a_broken_bundle_is_refused(service: Service, truth: Truth, version: str) -> None:
    """409 with the reason a worker; both workers go on to answer as v1, and nothing stays staged."""
    options, spoil, reason = BROKEN[version]
    bundle = write_tiny(service.models, version, **options)
    spoil(bundle.folder)
    async with Pool(service.port, greets=True) as pool, load(pool, SENT, clients=2) as outcomes:
        await reach(pool, service)
        answer = await asyncio.to_thread(promote, service, version)
        await more(outcomes)
    shutil.rmtree(bundle.folder)
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["type"] == "swap_refused"
    assert error["reasons"]
    assert error["reasons"].keys() <= {status.worker for status in service.live()}
    assert all(reason in said for said in error["reasons"].values()), error
    assert kinds(outcomes).keys() == {"ok"}
    assert set(versions(outcomes, truth)) == {"v1"}
    ranker = deployment.read(service.models).rankers["default"]
    assert (ranker.version, ranker.previous, ranker.staged) == ("v1", "v2", None)


async def test_a_killed_worker_takes_only_its_own_requests_along(service: Service, truth: Truth) -> None:
    """The other goes on; the next one is in the current version, not the first, before it takes traffic."""
    assert (await asyncio.to_thread(promote, service, "v2")).status_code == 200
    victim, other = service.live()
    said: dict[str, set[tuple[int, str]]] = {}
    async with Pool(service.port, greets=True) as pool, load(pool, SENT) as outcomes:
        owned = await reach(pool, service)
        await more(outcomes)
        os.kill(victim.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while said.keys() <= {victim.worker, other.worker}:
                with suppress(httpx.TransportError):  # it had just accepted this one
                    answer = await asyncio.to_thread(service.ask, "GET", "/readyz")
                    state = (answer.status_code, answer.json()["rankers"]["default"])
                    said.setdefault(answer.json()["worker"], set()).add(state)
        (successor,) = said.keys() - {victim.worker, other.worker}
        while not any(outcome.worker == successor for outcome in outcomes):
            await reach(pool, service)
            await more(outcomes)
    answered = [outcome for outcome in outcomes if outcome.kind == "ok"]
    failed = [outcome for outcome in outcomes if outcome.kind != "ok"]
    assert {outcome.worker for outcome in answered} == {victim.worker, other.worker, successor}
    assert set(versions(answered, truth)) == {"v2"}
    assert {outcome.worker for outcome in failed} <= {victim.worker}
    assert len(failed) <= owned[victim.worker]  # on each connection, what was under way
    assert set().union(*said.values()) == {(200, "v2")}
    await until(lambda: service.all_serve("v2"))


async def test_sigterm_loses_no_request(bundles: Path, truth: Truth) -> None:
    """Unready first, while all are answered; then the port closes, what is left is drained, exit code 0."""
    with (
        deployed(bundles, ["v1"]) as models,
        serving(models, workers=2, drain_grace_s=5, **SETTINGS) as service,
    ):
        async with Pool(service.port) as pool, load(pool, SENT) as outcomes:
            await more(outcomes)
            service.process.send_signal(signal.SIGTERM)
            while (answer := await asyncio.to_thread(service.ask, "GET", "/readyz")).status_code == 200:
                pass
            assert answer.json()["status"] == "draining"
            await more(outcomes, 8)
            assert kinds(outcomes).keys() == {"ok"}
            assert await asyncio.to_thread(service.process.wait, 60) == 0
            await until(lambda: kinds(outcomes)["refused"] == 4)  # every client
        assert deployment.workers(models) == []
    # Reset: on a connection that came as the port closed, which no worker had.
    assert kinds(outcomes).keys() <= {"ok", "reset", "refused"}
    answered = [outcome for outcome in outcomes if outcome.kind == "ok"]
    assert set(versions(answered, truth)) == {"v1"}


def rankserve(*arguments: object) -> Result:
    """A command."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_command_line_moves_a_running_service(service: Service) -> None:
    """As the operators' routes do, with no token: who can write to the folder is an operator."""
    done = rankserve("promote", "v2", "--models", service.models)
    assert done.stdout.startswith("default: v2 (2 workers")
    assert answered_by(service) == "v2"
    done = rankserve("rollback", "--models", service.models)
    assert done.stdout.startswith("default: v1 (2 workers")
    assert answered_by(service) == "v1"


def test_the_command_line_works_without_a_service(bundles: Path) -> None:
    """It proves a version itself, and refuses one that is broken."""
    with deployed(bundles, ["v1", "v2"]) as models:
        write_tiny(models, "not-golden", golden_error=1e-3)
        assert rankserve("promote", "v2", "--models", models).stdout.startswith("default: v2 (no worker ")
        refused = rankserve("promote", "not-golden", "--models", models)
        assert isinstance(refused.exception, SwapRefused)
        assert "apart from its golden scores" in str(refused.exception)
        assert deployment.read(models).rankers["default"].version == "v2"
        assert rankserve("rollback", "--models", models).stdout.startswith("default: v1 (no worker ")
        assert deployment.read(models).rankers["default"].version == "v1"


def test_operators_need_the_token(service: Service, one_worker: Service) -> None:
    """401 without it or with another, 403 from a service that has none; and nothing has moved."""
    assert [promote(service, "v2", token).status_code for token in (None, "wrong")] == [401, 401]
    assert service.ask("POST", "/v1/rankers/default/rollback").status_code == 401
    assert service.ask("GET", "/v1/workers").status_code == 401
    assert promote(one_worker, "v1").status_code == 403
    assert answered_by(service) == "v1"
    assert len(service.ask("GET", "/v1/workers", token=TOKEN).json()["workers"]) == 2
