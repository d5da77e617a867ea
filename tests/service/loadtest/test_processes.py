"""Several generator processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import asdict

import orjson
import pytest

from service.loadtest.client import Target
from service.loadtest.errors import LoadTestError
from service.loadtest.plan import Arrivals, Load, Mix, Requests, ids
from service.loadtest.processes import Generators, Setup, _serve
from service.loadtest.run import Bounds
from tests.service.loadtest.stub import Stub, serving

REQUESTS = Requests(ids("3"), ids("50"), Mix((5,), (1.0,)))


def setup(stub: Stub, processes: int) -> Setup:
    """Generators that ask a server."""
    return Setup(Target.parse(stub.url), REQUESTS, Bounds(2, 100, 10.0), processes, seed=0, bodies=20)


async def test_generators_share_a_load_and_live_on() -> None:
    """Together they send what one would, run after run, on the same connections; progress ends complete."""
    told: list[tuple[int, int, int]] = []

    def runs(stub: Stub) -> list[int]:
        with Generators(setup(stub, 3)) as generators:
            loads = [Load(rate, 0.5, Arrivals.CONSTANT) for rate in (40, 80)]
            return [generators.run(load, lambda *now: told.append(now)).answered for load in loads]

    async with serving(Stub()) as stub:
        assert await asyncio.to_thread(runs, stub) == [20, 40]
        assert len(stub.asked) == 60
        assert len(stub.connections) == 6
    assert told[-1][0] == 40
    assert multiprocessing.active_children() == []


async def test_a_generator_whose_parent_is_gone_ends() -> None:
    """As soon as it has something to tell; that nobody hears it is no failure."""
    ours, theirs = multiprocessing.Pipe()
    async with serving(Stub()) as stub:
        generator = asyncio.create_task(_serve(theirs, setup(stub, 1), 0))
        await asyncio.to_thread(ours.recv_bytes)
        load = Load(20, 2.0, Arrivals.CONSTANT)
        ours.send_bytes(orjson.dumps({"load": asdict(load), "start": time.monotonic()}))
        ours.close()
        await generator
        assert len(stub.asked) < 40
    theirs.close()


async def test_a_generator_that_dies_ends_the_test() -> None:
    """With its exit code, and the others with it."""

    def run(stub: Stub) -> None:
        with Generators(setup(stub, 2)) as generators:
            multiprocessing.active_children()[0].terminate()
            generators.run(Load(10, 0.2), lambda *_: None)

    async with serving(Stub()) as stub:
        with pytest.raises(LoadTestError, match="ended with -15"):
            await asyncio.to_thread(run, stub)
    assert multiprocessing.active_children() == []
