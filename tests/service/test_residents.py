"""Versions in memory: loaded behind the requests, leased by them, freed after the last of them."""

import asyncio
import gc
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest

from service.bundle import deployment
from service.bundle.errors import BundleError
from service.errors import NotReady
from service.registry import Registry
from service.residents import Residents
from tests.service.shelf import NamedWarming, Shelf, answered_by, deploy, opened, serves, until, worker


async def test_loading_leaves_the_loop_alone(tmp_path: Path, shelf: Shelf) -> None:
    """A load blocks a thread of its own, one for all loads, which keeps no process from ending."""
    threads: set[str] = set()

    def load(version: str) -> object:
        assert threading.current_thread().daemon
        threads.add(threading.current_thread().name)
        return shelf.load(version)

    deploy(tmp_path, version="v1")
    registry = Registry(tmp_path, load, worker="w1", poll_s=0.005)  # type: ignore[arg-type]
    async with opened(registry):
        await until(lambda: registry.ready)
        deploy(tmp_path, version="v2")
        await until(lambda: shelf.in_memory == ["v2"])
    assert threads == {"residents"}


async def test_a_version_is_as_warm_as_what_serves(tmp_path: Path, shelf: Shelf) -> None:
    """Before it is ready it follows what is in memory; it goes on with that afterwards."""
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        with registry.lease("default") as first:
            assert first.warming.followed == []  # type: ignore[attr-defined]
        deploy(tmp_path, version="v2", previous="v1")
        await until(lambda: answered_by(registry) == "v2")
        with registry.lease("default") as second:
            assert second.warming.followed == ["v1"]  # type: ignore[attr-defined]
            assert second.warming.has_gone_on  # type: ignore[attr-defined]


async def test_a_version_that_cannot_be_warmed_is_refused(tmp_path: Path, shelf: Shelf) -> None:
    """With the reason, and nothing of it stays in memory."""
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        deploy(tmp_path, version="cold", previous="v1")
        await until(lambda: registry.failed)
        assert registry.failed == {"cold": "cold cannot be warmed"}
        assert shelf.in_memory == ["v1"]


async def test_what_is_retired_meanwhile_is_not_followed(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are in memory; while a third follows the first, the second goes, and is let alone from then on."""
    residents, follow = Residents(shelf.load, retry_s=100.0), NamedWarming.follow
    begun, free = threading.Event(), threading.Event()

    def slowly(warming: NamedWarming, before: NamedWarming) -> None:
        begun.set()
        assert free.wait(10)
        follow(warming, before)

    for version in ("v1", "v2"):
        residents.load(version)
        await until(lambda: residents.loading is None)
    monkeypatch.setattr(NamedWarming, "follow", slowly)
    residents.load("v3")
    await until(begun.is_set)
    residents.retire("v2")
    await until(lambda: not residents.retiring)
    free.set()
    await until(lambda: residents.loading is None)
    assert residents.failed == {}
    assert residents.ready["v3"].model.warming.followed == ["v1"]  # type: ignore[attr-defined]
    await residents.close()
    assert shelf.in_memory == []


async def test_a_lease_keeps_its_version(tmp_path: Path, shelf: Shelf) -> None:
    """A request ends with the version it began with, which is freed after its last lease and not before."""
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        with registry.lease("default") as first:
            with registry.lease("default") as second:
                deploy(tmp_path, version="v2", previous="v1")
                await until(lambda: answered_by(registry) == "v2")
                assert first is second
            assert [resident.version for resident in registry.residents()] == ["v2", "v1"]
            await asyncio.sleep(0.05)
            assert not first.is_closed  # type: ignore[attr-defined]
        await until(lambda: shelf.in_memory == ["v2"])
        assert [resident.version for resident in registry.residents()] == ["v2"]
        assert first.is_drained  # type: ignore[attr-defined]
        assert first.is_closed  # type: ignore[attr-defined]


async def test_a_request_that_breaks_gives_its_lease_back(tmp_path: Path, shelf: Shelf) -> None:
    """An error or a cancellation ends a lease like an answer does."""
    deploy(tmp_path, version="v1")

    async def request(registry: Registry) -> None:
        with registry.lease("default"):
            await asyncio.sleep(60)

    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        with pytest.raises(ZeroDivisionError), registry.lease("default"):
            _ = 1 // 0
        cancelled = asyncio.create_task(request(registry))
        await until(lambda: registry.residents()[0].leases)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        deploy(tmp_path, version="v2")
        await until(lambda: shelf.in_memory == ["v2"])


async def test_a_third_version_waits(tmp_path: Path, shelf: Shelf) -> None:
    """While a request holds the old version beside the new, a third one is not loaded."""
    deploy(tmp_path, version="v1")
    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        with registry.lease("default"):
            deploy(tmp_path, version="v2", previous="v1", staged="v3")
            await until(lambda: answered_by(registry) == "v2")
            await asyncio.sleep(0.05)
            assert shelf.in_memory == ["v1", "v2"]
        await until(lambda: registry.status().ready == ("v2", "v3"))
    assert shelf.most == 2


async def test_close_waits_for_leases(tmp_path: Path, shelf: Shelf) -> None:
    """Closing takes no new requests, lets those under way end, and frees all."""
    deploy(tmp_path, version="v1")
    registry = worker(tmp_path, shelf)
    await registry.open()
    await until(lambda: registry.ready)
    with registry.lease("default") as model:
        closing = asyncio.create_task(registry.close(grace_s=5))
        await until(lambda: not deployment.workers(tmp_path))
        with pytest.raises(NotReady, match="about to end"):
            answered_by(registry)
        assert not model.is_closed  # type: ignore[attr-defined]
    await closing
    assert shelf.in_memory == []


async def test_close_does_not_wait_for_a_load(tmp_path: Path, shelf: Shelf) -> None:
    """What is being loaded while the worker closes holds nothing up; what serves is freed."""
    deploy(tmp_path, version="v1")
    registry = worker(tmp_path, shelf)
    await registry.open()
    await until(lambda: registry.ready)
    free = shelf.hold("v2")
    deploy(tmp_path, version="v1", staged="v2")
    await until(lambda: "v2" in shelf.loads)
    async with asyncio.timeout(5):
        await registry.close()
    assert shelf.in_memory == ["v2"]
    free.set()


async def test_what_fails_is_due_again_later_and_later(shelf: Shelf) -> None:
    """Each delay twice the last, and no delay beyond a bound; what is forgotten begins anew."""
    shelf.broken["v1"] = BundleError("v1 is gone")
    residents = Residents(shelf.load, retry_s=100.0)

    async def fail() -> float:
        residents.load("v1")
        await until(lambda: residents.loading is None)
        return residents.failed["v1"].delay_s

    assert [await fail() for _ in range(4)] == [100.0, 200.0, 300.0, 300.0]
    assert residents.due == frozenset()
    residents.forget(["v1"])
    assert await fail() == 100.0
    await residents.close()


@pytest.mark.parametrize(
    "error", [StopIteration(3), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_nothing_that_a_load_raises_can_stop_the_loading(shelf: Shelf, error: BaseException) -> None:
    """What no future may carry, or what would end the thread, is a reason like any other."""
    shelf.broken["v1"] = error
    residents = Residents(shelf.load, retry_s=100.0)
    for version in ("v1", "v2"):
        residents.load(version)
        await until(lambda: residents.loading is None)
    assert type(error).__name__ in residents.failed["v1"].reason
    assert residents.ready.keys() == {"v2"}
    await residents.close()


async def test_close_does_not_wait_for_ever(tmp_path: Path, shelf: Shelf) -> None:
    """A lease that never comes back does not keep the worker from ending."""
    deploy(tmp_path, version="v1")
    registry = worker(tmp_path, shelf)
    await registry.open()
    await until(lambda: registry.ready)
    with registry.lease("default"):
        await registry.close(grace_s=0.05)


async def test_close_unopened(tmp_path: Path, shelf: Shelf) -> None:
    """A registry that never opened closes too."""
    await worker(tmp_path, shelf).close()


def has_only(registry: Registry, shelf: Shelf, version: str) -> bool:
    """Whether the version serves, and no other is in memory."""
    return serves(registry) == version and shelf.in_memory == [version]


async def test_nothing_keeps_a_freed_model(tmp_path: Path, shelf: Shelf) -> None:
    """After many swaps no model but the last is reachable: nothing holds on to one."""
    deploy(tmp_path, version="v1")
    kept: list[weakref.ref[object]] = []
    gc.disable()  # so that a cycle would show
    try:
        async with opened(worker(tmp_path, shelf)) as registry:
            for number in range(20):
                version = f"v{number % 3 + 1}"
                deploy(tmp_path, version=version)
                await until(partial(has_only, registry, shelf, version))
                with registry.lease("default") as model:
                    kept.append(weakref.ref(model))
                del model
            await until(lambda: sum(ref() is not None for ref in kept) == 1)
    finally:
        gc.enable()


async def test_requests_during_swaps(tmp_path: Path, shelf: Shelf) -> None:
    """While versions change all the time, a request has one version, and that stays open to its end."""
    deploy(tmp_path, version="v1")
    answered: set[str] = set()

    async def ask(registry: Registry) -> None:
        while len(answered) < 3:
            with registry.lease("default") as model:
                version = model.version
                for _ in range(5):
                    await asyncio.sleep(0.001)
                    assert not model.is_closed  # type: ignore[attr-defined]
                assert model.version == version
                answered.add(version)

    async with opened(worker(tmp_path, shelf)) as registry:
        await until(lambda: registry.ready)
        asking = asyncio.gather(*(ask(registry) for _ in range(20)))
        for number in range(1, 400):
            if asking.done():
                break
            version = f"v{number % 3 + 1}"
            deploy(tmp_path, version=version)
            await asyncio.sleep(0.02)
        await asking
    assert answered == {"v1", "v2", "v3"}
    assert shelf.most == 2
