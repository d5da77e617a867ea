"""Operations on rankers: all workers or none."""

import asyncio
import time
from pathlib import Path

import pytest

from service import promotion
from service.bundle import deployment
from service.bundle.deployment import DeployedRanker
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.errors import InvalidRequest, SwapRefused, UnknownRanker, UnknownVersion
from tests.service.operations import Workers, all_serve, promote, rollback, state, unwanted
from tests.service.shelf import Shelf, deploy, serves, until


async def test_promote(tmp_path: Path, workers: Workers) -> None:
    """When the answer comes all workers serve with the new version, and the one before is remembered."""
    moved = await promote(tmp_path, "v2")
    assert all_serve(workers) == {"v2"}
    assert (moved.ranker, moved.version, moved.previous) == ("default", "v2", "v1")
    assert moved.workers == ("w1", "w2")
    assert moved.behind == {}
    assert moved.generation == deployment.read(tmp_path).generation
    assert state(tmp_path).staged is None


async def test_none_moves_before_all_are_ready(tmp_path: Path, other: Shelf, workers: Workers) -> None:
    """While one worker loads, the other one, which is ready, serves the old version."""
    free = other.hold("v2")
    moving = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: workers[0].status().ready == ("v1", "v2"))
    await asyncio.sleep(0.1)
    assert all_serve(workers) == {"v1"}
    assert not moving.done()
    free.set()
    await moving
    assert all_serve(workers) == {"v2"}


async def test_one_refuses(tmp_path: Path, shelf: Shelf, other: Shelf, workers: Workers) -> None:
    """What one worker cannot load none serves: it is unstaged, with the reason a worker."""
    other.broken["v2"] = BundleError("v2: weights.bin was truncated")
    with pytest.raises(SwapRefused, match="v2 could not be loaded") as refused:
        await promote(tmp_path, "v2")
    assert refused.value.reasons == {"w2": "v2: weights.bin was truncated"}
    assert all_serve(workers) == {"v1"}
    assert state(tmp_path) == DeployedRanker(version="v1", operation=2)
    await until(lambda: shelf.in_memory == other.in_memory == ["v1"])


async def test_refused_and_mended(tmp_path: Path, other: Shelf, workers: Workers) -> None:
    """A refusal is no verdict for ever: the same version, asked for again, is tried again."""
    other.broken["v2"] = BundleError("no memory")
    with pytest.raises(SwapRefused):
        await promote(tmp_path, "v2")
    other.broken.clear()
    assert (await promote(tmp_path, "v2")).behind == {}
    assert all_serve(workers) == {"v2"}


async def test_a_version_that_serves_must_fit_too(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """A version in memory for another ranker is refused where it cannot compute this one's formula."""
    await promote(tmp_path, "v2", "feed")
    buy = FusionFormula.parse({"groups": [{"factors": [{"task": "buy"}]}]})
    deployed = state(tmp_path, "feed").model_copy(update={"fusion": buy})
    deployment.update(tmp_path, lambda present: present.having("feed", deployed))
    with pytest.raises(SwapRefused, match="v1 could not be loaded") as refused:
        await promote(tmp_path, "v1", "feed")
    assert refused.value.reasons.keys() == {"w1", "w2"}
    assert "buy: unknown task" in refused.value.reasons["w1"]
    assert {serves(registry, "feed") for registry in workers} == {"v2"}
    assert (await promote(tmp_path, "v2")).version == "v2"
    assert shelf.loads == ["v1", "v2"]


async def test_too_slow(tmp_path: Path, other: Shelf, workers: Workers) -> None:
    """A load that takes for ever is given up, naming the worker; the others drop what they loaded."""
    free = other.hold("v2")
    with pytest.raises(SwapRefused, match="not loaded in time") as refused:
        await promote(tmp_path, "v2", timeout_s=2)
    assert refused.value.reasons == {"w2": "not loaded within 2 s"}
    assert state(tmp_path).staged is None
    await until(lambda: workers[0].status().ready == ("v1",))
    free.set()
    await until(lambda: other.in_memory == ["v1"])
    assert all_serve(workers) == {"v1"}


async def test_what_already_serves(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """Promoting what serves changes nothing, least of all the way back."""
    await promote(tmp_path, "v2")
    moved = await promote(tmp_path, "v2")
    assert moved.previous == "v1"
    assert shelf.loads == ["v1", "v2"]
    assert all_serve(workers) == {"v2"}


async def test_rollback(tmp_path: Path, workers: Workers) -> None:
    """Back to the version before; twice is back again."""
    await promote(tmp_path, "v2")
    moved = await rollback(tmp_path)
    assert (moved.version, moved.previous) == ("v1", "v2")
    assert all_serve(workers) == {"v1"}
    assert (await rollback(tmp_path)).version == "v2"
    assert all_serve(workers) == {"v2"}


@pytest.mark.usefixtures("workers")
async def test_nothing_to_go_back_to(tmp_path: Path) -> None:
    """Without a version before, or a ranker, there is no rollback, and nothing was staged."""
    generation = deployment.read(tmp_path).generation
    with pytest.raises(SwapRefused, match="no previous version"):
        await rollback(tmp_path)
    with pytest.raises(UnknownRanker, match="default"):
        await promotion.rollback(tmp_path, "nobody", check=unwanted)
    assert deployment.read(tmp_path).generation == generation


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("version", ["v9", "../v1", "", ".workers", "deployment.json"])
async def test_unknown_version(tmp_path: Path, version: str) -> None:
    """What is no version is not staged."""
    with pytest.raises(UnknownVersion, match="v1, v2, v3, v4"):
        await promote(tmp_path, version)
    assert state(tmp_path).staged is None


@pytest.mark.parametrize("ranker", ["", "a/b", "..", "x" * 101, "a\n"])
async def test_no_name_for_a_ranker(tmp_path: Path, ranker: str) -> None:
    """A ranker has a plain name."""
    with pytest.raises(InvalidRequest, match="name"):
        await promote(tmp_path, "v1", ranker)
    assert deployment.stamp(tmp_path) is None


async def test_a_new_ranker(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """A ranker is made by the first promotion that succeeds, and by none that fails."""
    shelf.broken["v3"] = BundleError("broken")
    with pytest.raises(SwapRefused):
        await promote(tmp_path, "v3", "feed")
    assert deployment.read(tmp_path).rankers.keys() == {"default"}
    moved = await promote(tmp_path, "v2", "feed")
    assert moved.previous is None
    assert {serves(registry, "feed") for registry in workers} == {"v2"}
    assert all_serve(workers) == {"v1"}


async def test_no_worker_alive(tmp_path: Path, shelf: Shelf) -> None:
    """Where nothing runs, the version is checked here and then deployed."""
    moved = await promotion.promote(tmp_path, "default", "v1", check=shelf.check)
    assert shelf.loads == ["check v1"]
    assert moved.workers == ()
    await promotion.promote(tmp_path, "default", "v2", check=shelf.check)
    await promotion.rollback(tmp_path, "default", check=shelf.check)
    assert state(tmp_path) == DeployedRanker(version="v1", previous="v2", operation=5)


async def test_no_worker_alive_and_broken(tmp_path: Path, shelf: Shelf) -> None:
    """Where nothing runs, a version that fails its check is not deployed."""
    shelf.broken["v1"] = BundleError("v1: golden request 0: click is 1.0e-01 apart")
    with pytest.raises(SwapRefused, match="golden request 0"):
        await promotion.promote(tmp_path, "default", "v1", check=shelf.check)
    assert deployment.read(tmp_path).rankers == {}


async def test_no_worker_alive_and_no_fit(tmp_path: Path, shelf: Shelf) -> None:
    """Where nothing runs, a version that cannot compute the deployed formula is not deployed."""
    buy = FusionFormula.parse({"groups": [{"factors": [{"task": "buy"}]}]})
    deploy(tmp_path, version="v1", fusion=buy.model_dump())
    with pytest.raises(SwapRefused, match="buy: unknown task"):
        await promotion.promote(tmp_path, "default", "v2", check=shelf.check)
    assert state(tmp_path).version == "v1"


async def test_what_is_staged_has_an_end(tmp_path: Path, other: Shelf, workers: Workers) -> None:
    """An operation outlives its time by no more than its process; nothing stays of it once it is done."""
    free = other.hold("v2")
    moving = asyncio.create_task(promote(tmp_path, "v2", timeout_s=100))
    await until(lambda: state(tmp_path).staged)
    until_s = (state(tmp_path).staged_until or 0) - time.time()
    assert 50 < until_s < 200
    free.set()
    await moving
    assert state(tmp_path).staged_until is None
    assert all_serve(workers) == {"v2"}


async def test_broken_deployment(tmp_path: Path, shelf: Shelf) -> None:
    """A deployment.json that cannot be read is not overwritten."""
    (tmp_path / "deployment.json").write_text("{")
    with pytest.raises(BundleError, match=r"deployment\.json"):
        await promotion.promote(tmp_path, "default", "v1", check=shelf.check)
    assert (tmp_path / "deployment.json").read_text() == "{"
