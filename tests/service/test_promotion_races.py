"""Operations at once, and workers that come and go meanwhile: the last to begin wins."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from service import promotion
from service.bundle import deployment
from service.bundle.deployment import DeployedRanker, Deployment, WorkerStatus
from service.errors import Superseded
from service.promotion import Promoted
from tests.service.bundle.processes import dead_pid
from tests.service.operations import Workers, all_serve, promote, rollback, state
from tests.service.shelf import Shelf, serves, until, worker


async def test_the_later_one_wins(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """A promotion that begins while another is under way overtakes it, and that one is told."""
    free = shelf.hold("v2")
    earlier = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: "v2" in shelf.loads)
    later = asyncio.create_task(promote(tmp_path, "v3"))
    with pytest.raises(Superseded, match="overtook"):
        await earlier
    assert state(tmp_path).staged == "v3"
    free.set()
    assert (await later).version == "v3"
    assert all_serve(workers) == {"v3"}
    assert shelf.most == 2
    assert state(tmp_path).previous == "v1"


async def test_the_same_again_overtakes_too(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """Two promotions of one version: the later one is answered, the earlier one told."""
    free = shelf.hold("v2")
    earlier = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: "v2" in shelf.loads)
    later = asyncio.create_task(promote(tmp_path, "v2"))
    with pytest.raises(Superseded):
        await earlier
    free.set()
    await later
    assert all_serve(workers) == {"v2"}
    assert shelf.loads == ["v1", "v2"]


async def test_a_storm(tmp_path: Path, shelf: Shelf, other: Shelf, workers: Workers) -> None:
    """Promotions and rollbacks all at once: every one is answered, the last to begin wins, workers agree."""
    await promote(tmp_path, "v2")
    operations = []
    for number in range(30):
        wanted = f"v{number % 4 + 1}"
        work = rollback(tmp_path) if number % 5 == 4 else promote(tmp_path, wanted)
        operations.append(asyncio.create_task(work))
        await asyncio.sleep(0.01 * (number % 3))
    results = await asyncio.gather(*operations, return_exceptions=True)
    assert all(isinstance(result, Promoted | Superseded) for result in results)
    moved = [result for result in results if isinstance(result, Promoted)]
    last = max(moved, key=lambda result: result.generation)
    assert state(tmp_path).version == last.version
    assert state(tmp_path).staged is None
    assert all_serve(workers) == {last.version}
    assert max(shelf.most, other.most) == 2
    await until(lambda: shelf.in_memory == other.in_memory == [last.version])


async def test_two_rankers_at_once(tmp_path: Path, shelf: Shelf, other: Shelf, workers: Workers) -> None:
    """Promotions of different rankers do not overtake each other, nor wait for each other for ever."""
    await promote(tmp_path, "v2", "feed")
    await asyncio.gather(promote(tmp_path, "v3"), promote(tmp_path, "v4", "feed"))
    assert all_serve(workers) == {"v3"}
    assert {serves(registry, "feed") for registry in workers} == {"v4"}
    assert max(shelf.most, other.most) == 3


async def test_cancelled(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """A promotion that is cancelled leaves nothing staged."""
    free = shelf.hold("v2")
    moving = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: "v2" in shelf.loads)
    moving.cancel()
    await asyncio.wait([moving])
    assert moving.cancelled()
    assert state(tmp_path).staged is None
    free.set()
    await until(lambda: shelf.in_memory == ["v1"])
    assert all_serve(workers) == {"v1"}


async def test_cancelled_as_it_begins(tmp_path: Path, shelf: Shelf, workers: Workers) -> None:
    """However early it is cancelled, a promotion leaves nothing staged."""
    free = shelf.hold("v2")
    for turns in range(12):
        moving = asyncio.create_task(promote(tmp_path, "v2"))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        moving.cancel()
        await asyncio.wait([moving])
        await asyncio.sleep(0.02)
        assert state(tmp_path).staged is None
    free.set()
    assert all_serve(workers) == {"v1"}


async def test_cancelled_as_it_moves(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move that comes late, after its promotion was cancelled and unstaged, moves nothing."""
    begun, free, ended = threading.Event(), threading.Event(), threading.Event()
    move = promotion._Operation.move

    def late(operation: promotion._Operation) -> Deployment:
        begun.set()
        try:
            assert free.wait(10)
            return move(operation)
        finally:
            ended.set()

    monkeypatch.setattr(promotion._Operation, "move", late)
    moving = asyncio.create_task(promote(tmp_path, "v2"))
    await until(begun.is_set)
    moving.cancel()
    await asyncio.wait([moving])
    assert moving.cancelled()
    free.set()
    await until(ended.is_set)
    assert state(tmp_path) == DeployedRanker(version="v1", operation=2)
    assert all_serve(workers) == {"v1"}


async def test_a_worker_dies_meanwhile(tmp_path: Path, other: Shelf, workers: Workers) -> None:
    """A worker that ends while it is waited for is waited for no longer."""
    free = other.hold("v2")
    moving = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: "v2" in other.loads)
    closing = asyncio.create_task(workers[1].close(grace_s=5))
    moved = await moving
    assert moved.version == "v2"
    assert serves(workers[0]) == "v2"
    free.set()
    await closing


async def test_a_worker_comes_meanwhile(tmp_path: Path, other: Shelf, shelf: Shelf, workers: Workers) -> None:
    """A worker that starts while another loads is waited for like those that were there."""
    free = other.hold("v2")
    moving = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: "v2" in other.loads)
    third = worker(tmp_path, shelf, "w3")
    await third.open()
    await until(lambda: len(deployment.live(tmp_path)) == 3)
    free.set()
    assert set((await moving).workers) >= {"w1", "w2"}
    await until(lambda: serves(third) == "v2")
    await third.close()


async def test_the_dead_are_not_waited_for(tmp_path: Path, workers: Workers) -> None:
    """Status files of dead and of silent workers hold nothing up."""
    now = time.time()
    for name, pid, written in (("dead", dead_pid(), now), ("hung", os.getpid(), now - deployment.STALE_S)):
        status = WorkerStatus(
            worker=name,
            pid=pid,
            host=deployment.this_host(),
            started=0,
            heartbeat=now,
            generation=0,
        )
        deployment.report(tmp_path, status)
        os.utime(tmp_path / ".workers" / f"{name}.json", (written, written))
    assert (await promote(tmp_path, "v2")).workers == ("w1", "w2")
    assert all_serve(workers) == {"v2"}


def report_ready(models: Path, **changes: object) -> None:
    """A third worker, which has v2 ready and serves v1, but for the changes."""
    status = WorkerStatus(
        worker="w3",
        pid=os.getpid(),
        host=deployment.this_host(),
        started=0,
        heartbeat=time.time(),
        generation=99,
        ready=("v2",),
        rankers={"default": "v1"},
    )
    deployment.report(models, status.model_copy(update=changes))


async def test_one_does_not_follow(tmp_path: Path, workers: Workers) -> None:
    """A worker that was ready and then does not follow is named, after a while."""
    report_ready(tmp_path)
    moved = await promote(tmp_path, "v2", timeout_s=3)
    assert moved.behind == {"w3": "not within 3 s"}
    assert moved.workers == ("w1", "w2")
    assert all_serve(workers) == {"v2"}


async def test_moved_on_before_all_followed(tmp_path: Path, workers: Workers) -> None:
    """A promotion that waits for the last worker to follow is told when a later one has moved the ranker."""
    report_ready(tmp_path, ready=("v2", "v3"))
    earlier = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: all_serve(workers) == {"v2"})
    later = asyncio.create_task(promote(tmp_path, "v3"))
    with pytest.raises(Superseded, match="has moved"):
        await earlier
    report_ready(tmp_path, rankers={"default": "v3"})
    assert (await later).workers == ("w1", "w2", "w3")


async def test_one_breaks_after_the_move(tmp_path: Path, workers: Workers) -> None:
    """Once the ranker has moved, a worker that cannot follow is named, and the rest are not held up."""
    report_ready(tmp_path)
    moving = asyncio.create_task(promote(tmp_path, "v2"))
    await until(lambda: state(tmp_path).version == "v2")
    report_ready(tmp_path, ready=(), failed={"v2": "restarted, no memory"})
    moved = await moving
    assert moved.behind == {"w3": "restarted, no memory"}
    assert moved.workers == ("w1", "w2")
    assert all_serve(workers) == {"v2"}
