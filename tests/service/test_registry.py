"""A worker follows the deployment, and no request ever notices."""

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.bundle import deployment
from service.bundle.errors import BundleError
from service.errors import NotReady, UnknownRanker
from tests.service.shelf import Shelf, answered_by, deploy, opened, serves, until, worker

CLICK = {"groups": [{"factors": [{"task": "click", "weight": 2}]}]}
BUY = {"groups": [{"factors": [{"task": "buy"}]}]}


async def test_nothing_deployed(tmp_path: Path, shelf: Shelf) -> None:
    """Where nothing is deployed a worker is not ready, says so, and starts as soon as there is something."""
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: deployment.live(tmp_path))
        assert not registry.ready
        with pytest.raises(NotReady, match="nothing is deployed yet"):
            answered_by(registry)
        deploy(tmp_path, version="v1")
        await until(lambda: registry.ready)
        assert answered_by(registry) == "v1"


async def test_what_is_not_there(tmp_path: Path, shelf: Shelf) -> None:
    """An unknown ranker is named with those there are; one that still loads is not unknown."""
    deploy(tmp_path, version="v1")
    deploy(tmp_path, "feed", version="v2")
    free = shelf.hold("v2")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: serves(registry))
        with pytest.raises(UnknownRanker, match="default, feed"):
            answered_by(registry, "related")
        with pytest.raises(NotReady, match="v2 is being loaded"):
            answered_by(registry, "feed")
        assert not registry.ready
        free.set()
        await until(lambda: registry.ready)
        assert answered_by(registry, "feed") == "v2"


async def test_a_swap(tmp_path: Path, shelf: Shelf) -> None:
    """Staged, loaded beside the old, moved, the old one freed: at every moment a version answers."""
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        free = shelf.hold("v2")
        deploy(tmp_path, version="v1", staged="v2")
        await until(lambda: shelf.loads == ["v1", "v2"])
        assert answered_by(registry) == "v1"
        assert registry.status().ready == ("v1",)
        free.set()
        await until(lambda: registry.status().ready == ("v1", "v2"))
        assert answered_by(registry) == "v1"
        deploy(tmp_path, version="v2", previous="v1")
        await until(lambda: answered_by(registry) == "v2")
        await until(lambda: shelf.in_memory == ["v2"])
        assert shelf.most == 2
        served = registry.rankers()["default"]
        assert (served.version, served.problem) == ("v2", None)
        assert served.since is not None
        assert abs(served.since - time.time()) < 60


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BundleError("v2: rank.onnx is missing"), "v2: rank.onnx is missing"),
        (RuntimeError("[ONNXRuntimeError] : 7"), "RuntimeError('[ONNXRuntimeError] : 7')"),
        (MemoryError(), "MemoryError()"),
    ],
)
async def test_a_failed_load(tmp_path: Path, shelf: Shelf, error: Exception, reason: str) -> None:
    """Whatever breaks a load becomes that version's reason; the old one serves, and nothing is retried."""
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        shelf.broken["v2"] = error
        deploy(tmp_path, version="v1", staged="v2")
        await until(lambda: registry.failed)
        await asyncio.sleep(0.05)
        assert registry.failed == {"v2": reason}
        assert answered_by(registry) == "v1"
        assert registry.ready
        assert shelf.loads == ["v1", "v2"]
        await until(lambda: deployment.workers(tmp_path)[0].failed == {"v2": reason})


async def test_what_is_named_anew_is_tried_again(tmp_path: Path, shelf: Shelf) -> None:
    """The reason why a version failed stays until somebody names it again; then it is loaded once more."""
    shelf.broken["v2"] = BundleError("cut short")
    deploy(tmp_path, version="v1", staged="v2")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.failed)
        unstaged = deploy(tmp_path, version="v1").generation
        await until(lambda: registry.status().generation == unstaged)
        assert registry.failed == {"v2": "cut short"}
        shelf.broken.clear()
        deploy(tmp_path, version="v1", staged="v2", operation=1)
        await until(lambda: registry.status().ready == ("v1", "v2"))
        assert registry.failed == {}


async def test_restart_into_the_previous(tmp_path: Path, shelf: Shelf) -> None:
    """A worker that cannot load what is deployed starts with the version before, and says why."""
    shelf.broken["v2"] = BundleError("v2: weights.bin was truncated")
    deploy(tmp_path, version="v2", previous="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        assert answered_by(registry) == "v1"
        served = registry.rankers()["default"]
        assert served.deployed is not None
        assert (served.version, served.deployed.version) == ("v1", "v2")
        assert served.problem == "v2: weights.bin was truncated"
        assert shelf.loads == ["v2", "v1"]
        assert shelf.in_memory == ["v1"]


async def test_what_is_deployed_is_tried_again(tmp_path: Path, shelf: Shelf) -> None:
    """A worker that started in a bad moment does not serve the previous version for ever."""
    shelf.broken["v2"] = BundleError("v2: the disk is gone")
    deploy(tmp_path, version="v2", previous="v1")
    async with opened(worker(tmp_path, shelf, retry_s=0.01)) as registry:
        await until(lambda: shelf.loads.count("v2") >= 3)
        assert answered_by(registry) == "v1"
        assert registry.rankers()["default"].problem == "v2: the disk is gone"
        assert shelf.loads.count("v1") == 1
        shelf.broken.clear()
        await until(lambda: answered_by(registry) == "v2")
        await until(lambda: shelf.in_memory == ["v2"])
        assert (registry.failed, registry.rankers()["default"].problem) == ({}, None)


async def test_what_was_staged_by_one_who_died_is_let_go(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time has passed a staged version is as one that was unstaged."""
    deploy(tmp_path, version="v1", staged="v2", staged_until=time.time() + 60)
    deploy(tmp_path, "feed", staged="v3", staged_until=time.time() - 1)
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.status().ready == ("v1", "v2"))
        assert registry.rankers().keys() == {"default"}
        later = SimpleNamespace(time=lambda: time.time() + 120, monotonic=time.monotonic)
        monkeypatch.setattr("service.registry.time", later)
        await until(lambda: shelf.in_memory == ["v1"])
    assert shelf.loads == ["v1", "v2"]


async def test_nothing_to_start_with(tmp_path: Path, shelf: Shelf) -> None:
    """Where neither the deployed version nor the one before loads, the reason is what a request gets."""
    shelf.broken.update(v1=BundleError("v1 is gone"), v2=BundleError("v2 is gone"))
    deploy(tmp_path, version="v2", previous="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: len(registry.failed) == 2)
        assert not registry.ready
        with pytest.raises(NotReady, match="v2 is gone"):
            answered_by(registry)


async def test_a_new_ranker_has_no_version_yet(tmp_path: Path, shelf: Shelf) -> None:
    """A ranker whose first version is only staged cannot serve, and makes the others no less ready."""
    deploy(tmp_path, version="v1")
    deploy(tmp_path, "feed", staged="v2")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.status().ready == ("v1", "v2"))
        assert registry.ready
        with pytest.raises(NotReady, match="no version was ever promoted"):
            answered_by(registry, "feed")


async def test_rankers_come_and_go(tmp_path: Path, shelf: Shelf) -> None:
    """A ranker taken out of the deployment is unknown; its version goes when no other ranker has it."""
    deploy(tmp_path, version="v1")
    deploy(tmp_path, "feed", version="v2")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        deployment.update(tmp_path, lambda d: d.having("feed", None))
        await until(lambda: shelf.in_memory == ["v1"])
        with pytest.raises(UnknownRanker):
            answered_by(registry, "feed")
        assert registry.rankers().keys() == {"default"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"generation": "x"}', None])
async def test_a_broken_deployment_changes_nothing(
    tmp_path: Path, shelf: Shelf, content: bytes | None
) -> None:
    """A deployment.json that is broken or gone is complained of, and what it last said still holds."""
    deploy(tmp_path, version="v1")
    path = tmp_path / "deployment.json"
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        path.unlink() if content is None else path.write_bytes(content)
        await until(lambda: registry.complaint)
        assert "deployment.json" in str(registry.complaint)
        assert answered_by(registry) == "v1"
        path.unlink(missing_ok=True)
        deploy(tmp_path, version="v2")
        await until(lambda: answered_by(registry) == "v2")
        assert registry.complaint is None


async def test_a_deployment_that_cannot_be_looked_at(tmp_path: Path, shelf: Shelf) -> None:
    """It is complained of; the worker's heart beats on, and it serves and loads what it was told before."""
    free = shelf.hold("v2")
    deploy(tmp_path, version="v1", staged="v2")
    path = tmp_path / "deployment.json"
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: serves(registry))
        path.unlink()
        path.symlink_to(path)
        await until(lambda: registry.complaint)
        assert registry.complaint == "deployment.json cannot be read: Too many levels of symbolic links"
        free.set()
        await until(lambda: deployment.live(tmp_path)[0].ready == ("v1", "v2"))
        path.unlink()
        deploy(tmp_path, version="v3")
        await until(lambda: answered_by(registry) == "v3")
        assert registry.complaint is None


async def test_a_folder_that_breaks_under_it(tmp_path: Path, shelf: Shelf) -> None:
    """Where the status file cannot be written the worker serves on, and follows the deployment still."""
    (tmp_path / ".workers").write_text("in the way")
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        deploy(tmp_path, version="v2")
        await until(lambda: answered_by(registry) == "v2")
        (tmp_path / ".workers").unlink()
        await until(lambda: [status.rankers for status in deployment.live(tmp_path)] == [{"default": "v2"}])


async def test_deployed_fusion(tmp_path: Path, shelf: Shelf) -> None:
    """A deployed formula holds where it fits the model; where it does not, the model's own does, and why."""
    deploy(tmp_path, version="v1", fusion=CLICK)
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        fusion = registry.fusion("default")
        assert fusion is not None
        assert fusion.tasks == ("click",)
        deploy(tmp_path, version="v1", fusion=BUY)
        await until(lambda: registry.fusion("default") is None)
        assert "buy: unknown task" in str(registry.rankers()["default"].problem)
        assert answered_by(registry) == "v1"
        deploy(tmp_path, version="v1")
        await until(lambda: registry.rankers()["default"].problem is None)
        assert registry.fusion("default") is registry.fusion("nobody") is None


async def test_staged_version_must_fit_the_deployed_fusion(tmp_path: Path, shelf: Shelf) -> None:
    """A version that cannot compute the ranker's deployed formula is told so for it, and for no other."""
    deploy(tmp_path, "feed", staged="v1", fusion=BUY)
    deploy(tmp_path, staged="v1", fusion=CLICK)
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.status().ready == ("v1",) and bool(registry.status().unfit))
        assert registry.status().unfit.keys() == {"feed"}
        assert "buy: unknown task" in registry.status().unfit["feed"]
        assert registry.failed == {}


async def test_heartbeat(tmp_path: Path, shelf: Shelf) -> None:
    """A worker's heart beats while it lives, also while it loads, and its file goes when it closes."""
    deploy(tmp_path, version="v1")
    free = shelf.hold("v1")
    async with opened(worker(tmp_path, shelf)):
        await until(lambda: deployment.live(tmp_path))
        first = deployment.live(tmp_path)[0]
        assert (first.worker, first.pid, first.ready) == ("w1", os.getpid(), ())
        await until(lambda: deployment.live(tmp_path)[0].heartbeat > first.heartbeat)
        free.set()
    assert deployment.workers(tmp_path) == []
