"""One generator against a small server."""

from __future__ import annotations

import asyncio
import time
from itertools import repeat

import numpy as np
import pytest

from service.loadtest.client import Pool, Target
from service.loadtest.measured import Measured
from service.loadtest.notes import Judged
from service.loadtest.plan import Arrivals, Load
from service.loadtest.run import Bounds, Run
from tests.service.loadtest.stub import Asked, Rank, Stub, message, refusal, serving, slate

BODY = b'{"user_id":"1","candidates":["1","2","3"]}'
BOUNDS = Bounds(connections=8, in_flight=1_000, timeout_s=5.0)
PATIENT = Bounds(connections=128, in_flight=1_000, timeout_s=60.0)


async def run(stub: Stub, load: Load, bounds: Bounds = BOUNDS) -> Measured:
    """What one generator finds."""
    target = Target.parse(stub.url)
    async with Pool(target, bounds.connections) as pool:
        await pool.open()
        one = Run(pool, repeat(target.message("POST", "/v1/rank", BODY)), bounds, load)
        return await one.all(time.monotonic() + 0.05, load.due(), lambda *_: None)


def stalling(after: int, until: int) -> Rank:
    """A service that freezes once: with one request, until so many more have come.

    It counts requests and no seconds, so that it stands still for what was sent however slow the machine is.
    """
    asked_so_far = 0
    thawed = asyncio.Event()

    async def rank(asked: Asked) -> bytes:
        nonlocal asked_so_far
        asked_so_far += 1
        if asked_so_far >= until:
            thawed.set()
        if asked_so_far >= after:
            await thawed.wait()
        return slate(asked)

    return rank


def serial(takes_s: float) -> Rank:
    """A service that does one thing at a time."""
    engine = asyncio.Lock()

    async def rank(asked: Asked) -> bytes:
        async with engine:
            await asyncio.sleep(takes_s)
        return slate(asked)

    return rank


async def test_every_request_is_sent_once_and_counted() -> None:
    """The slate's version, candidates and the service's own times are noted, too."""
    async with serving(Stub()) as stub:
        found = await run(stub, Load(200, 0.5, Arrivals.CONSTANT))
    assert (found.planned, found.answered, found.failed, len(stub.asked)) == (100, 100, 0, 100)
    assert (found.versions, found.candidates) == ({"v1": 100}, 300)
    assert {stage: times.count for stage, times in found.stages.items()} == {"rank": 100, "total": 100}
    assert (found.latency.count, found.lateness.count) == (100, 100)
    assert len(stub.connections) == 8  # as many as are allowed are open before the first request, and stay


async def test_a_stall_shows_in_the_percentiles() -> None:
    """All that was due while the service stood still waited for it: the 50 of a second, of 100 at 50/s.

    A closed loop would have met the stall once: it waits for the answer before it asks again.
    """
    load = Load(50, 2.0, Arrivals.CONSTANT)
    async with serving(Stub(stalling(25, 75))) as stub:
        found = await run(stub, load, PATIENT)
    assert (found.planned, found.failed) == (100, 0)
    # The last is due 50/50 s after the first that froze, and nothing is sent before it is due.
    assert found.latency.ms(100) >= 980
    assert found.latency.ms(75) >= 480


@pytest.mark.parametrize("kind", ["504 deadline_exceeded", "500", "reset"])
async def test_a_failure_that_waited_shows_in_the_percentiles(kind: str) -> None:
    """Else a service that fails a tenth of its requests after a second would seem the faster for it."""
    asked_so_far = 0

    async def rank(asked: Asked) -> bytes:
        nonlocal asked_so_far
        asked_so_far += 1
        if asked_so_far % 10:
            return slate(asked)
        await asyncio.sleep(0.3)
        said = kind.split()
        return b"" if kind == "reset" else refusal(int(said[0]), said[1]) if said[1:] else message(500, [])

    load = Load(100, 0.5, Arrivals.CONSTANT)
    async with serving(Stub(rank)) as stub:
        found = await run(stub, load, PATIENT)
    assert found.errors == {kind: 5}
    assert (found.latency.count, found.failures.count) == (50, 5)
    assert found.latency.ms(95) >= 290
    assert found.summary(load)["failed_ms"]["p50"] >= 290
    assert (
        f"count in the percentiles with the time that they did: {kind} 5"
        in Judged(load, found).notes()["failed"]
    )


async def test_the_share_of_a_core_is_that_of_the_time_when_requests_were_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wait for the last answer, in which nothing is to be done, does not dilute it."""
    over, spent = asyncio.Event(), [0.0]

    async def rank(asked: Asked) -> bytes:
        spent[0] += 0.001
        if len(stub.asked) == 50:
            await over.wait()
        return slate(asked)

    monkeypatch.setattr(time, "process_time", lambda: spent[0])
    load = Load(100, 0.5, Arrivals.CONSTANT)
    async with serving(Stub(rank)) as stub:
        running = asyncio.create_task(run(stub, load, PATIENT))
        while len(stub.asked) < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        spent[0] += 5.0
        over.set()
        found = await running
    assert found.cpu[0] <= 0.05 / 0.49


async def test_a_load_beyond_capacity_is_told() -> None:
    """A service that does 50 a second at most answers less than 100, and its backlog grows."""
    async with serving(Stub(serial(0.02))) as stub:
        load = Load(100, 2.0)
        found = await run(stub, load, PATIENT)
    overload = Judged(load, found).overload
    assert overload is not None
    assert "asked 100 requests/s" in overload
    assert "backlog grew" in overload
    assert found.in_time <= 110
    assert found.failed == 0


async def test_waiting_for_a_connection_is_latency() -> None:
    """With one connection, requests due at once are answered one after another, and it shows."""
    async with serving(Stub(serial(0.05))) as stub:
        load = Load(100, 0.1, Arrivals.CONSTANT)
        found = await run(stub, load, Bounds(1, 100, 60.0))
    assert (found.planned, found.answered) == (10, 10)
    assert found.latency.ms(100) >= 400
    assert found.queueing.ms(100) >= 350
    assert "wait for a connection" in Judged(load, found).notes()["connections"]
    assert len(stub.connections) == 1


async def run_against_silence(load: Load, bounds: Bounds) -> tuple[Stub, Measured]:
    """A service that takes requests and answers none of them."""
    never = asyncio.Event()

    async def rank(asked: Asked) -> bytes:
        await never.wait()
        return b""

    async with serving(Stub(rank)) as stub:
        found = await run(stub, load, bounds)
        never.set()
    return stub, found


async def test_a_wait_that_is_given_up_is_noted() -> None:
    """A service that hangs, and one connection: the others only ever wait for it."""
    load = Load(100, 0.1, Arrivals.CONSTANT)
    _, found = await run_against_silence(load, Bounds(1, 100, 0.5))
    assert found.errors == {"timeout": 10}
    assert found.queueing.count == 10
    assert found.queueing.ms(50) >= 300
    assert "connections" in Judged(load, found).notes()


async def test_a_request_that_its_generator_turns_to_too_late_is_not_the_service_s() -> None:
    """It is not sent: an error of its own, without a latency."""
    async with serving(Stub()) as stub:
        load = Load(100, 0.1, Arrivals.CONSTANT)
        target = Target.parse(stub.url)
        async with Pool(target, 1) as pool:
            one = Run(pool, repeat(target.message("POST", "/v1/rank", BODY)), Bounds(1, 100, 0.5), load)
            found = await one.all(time.monotonic() - 2.0, load.due(), lambda *_: None)
    assert found.errors == {"generator late": 10}
    assert (found.latency.count, stub.asked) == (0, [])
    assert Judged(load, found).overload is None
    assert "10 requests were not sent" in Judged(load, found).notes()["generator late"]


async def test_what_is_beyond_the_bound_is_not_sent() -> None:
    """Requests on their way are bounded; the others are counted, and the test ends."""
    load = Load(100, 0.5, Arrivals.CONSTANT)
    stub, found = await run_against_silence(load, Bounds(2, 5, 1.0))
    assert found.errors == {"not sent": 45, "timeout": 5}
    assert len(stub.asked) <= 5
    assert found.latency.count == 5  # those given up, with what they waited
    assert found.latency.ms(50) >= 900
    notes = " ".join(Judged(load, found).notes().values())
    assert "45 requests were not sent" in notes
    assert "time that they did: timeout 5" in notes


def odd(**said: object) -> bytes:
    """An answer that has all of a slate, and something else in one place."""
    return slate({"candidates": []}, **said)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(429, "overloaded"), "429 overloaded"),
        (refusal(504, "deadline_exceeded"), "504 deadline_exceeded"),
        (message(500, ["broken"]), "500"),
        (message(200, {"no": "slate"}), "200 without a slate"),
        (message(200, None), "200 without a slate"),
        (odd(timings_ms=None), "200 without a slate"),
        (odd(timings_ms={"rank": None}), "200 without a slate"),
        (odd(defaults=None), "200 without a slate"),
        (odd(degraded=3), "200 without a slate"),
        (b"", "reset"),
        (b"SSH-2.0-hello\r\n", "no HTTP"),
    ],
)
async def test_errors_are_counted_by_kind(answer: bytes, kind: str) -> None:
    """With the service's own word where it gives one; of what is refused at once none counts as a latency."""

    async def rank(asked: Asked) -> bytes:
        return answer

    async with serving(Stub(rank)) as stub:
        found = await run(stub, Load(100, 0.1, Arrivals.CONSTANT))
    assert found.errors == {kind: 10}
    assert found.failures.count == 10
    assert found.latency.count == (0 if kind.startswith("4") else 10)


async def test_nobody_listens() -> None:
    """Every request is refused, and the test ends in its time all the same."""
    async with serving(Stub()) as stub:
        pass
    load = Load(100, 0.2, Arrivals.CONSTANT)
    found = await run(stub, load)
    assert found.errors == {"refused": 20}
    assert found.latency.count == 0
    assert "Refused requests have no part" in Judged(load, found).notes()["refused"]


async def test_connections_that_the_service_ends_are_opened_anew() -> None:
    """Whether it says so or just closes them: no request is lost to that."""

    async def rank(asked: Asked) -> bytes:
        return slate(asked).replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1)

    async with serving(Stub(rank)) as stub:
        found = await run(stub, Load(100, 0.2, Arrivals.CONSTANT), Bounds(2, 100, 5.0))
    assert (found.answered, found.failed) == (20, 0)
    assert len(stub.connections) >= 20


async def test_windows_part_a_run_by_when_requests_were_due() -> None:
    """Each with its own latencies and errors; together they are the run."""
    async with serving(Stub()) as stub:
        found = await run(stub, Load(100, 0.6, Arrivals.CONSTANT, windows=3))
    assert [window.planned for window in found.windows] == [20, 20, 20]
    assert [window.latency.count for window in found.windows] == [20, 20, 20]


async def test_what_is_found_travels_and_adds_up() -> None:
    """Read back it is the same; twice itself has twice the counts and the same percentiles."""
    async with serving(Stub()) as stub:
        load = Load(100, 0.3, Arrivals.CONSTANT, windows=2)
        found = await run(stub, load)
    read = Measured.decode(found.encode())
    assert read.summary(load) == found.summary(load)
    read.add(found)
    assert (read.planned, read.answered, read.in_time) == (60, 60, 2 * found.in_time)
    assert np.isclose(read.latency.ms(50), found.latency.ms(50), rtol=2e-3)
    assert read.stages["rank"].count == 60
    assert len(read.cpu) == 2
