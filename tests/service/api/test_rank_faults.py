"""POST /v1/rank where something goes wrong beside a request: its neighbours never notice."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.shelf import until
from tests.service.toy import POISON_AGE, RUNTIME_AGE, Toy, ids, toy

CANDIDATES = ["3", "7", "1", "5"]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Toy]:
    """A running service with the version "up"."""
    async with toy(tmp_path) as running:
        yield running


async def hold(service: Toy, **body: Any) -> asyncio.Task[httpx.Response]:
    """A request that keeps the engine busy until the model is free."""
    model = service.models["up"]
    model.free.clear()
    task = asyncio.create_task(service.rank(**{"candidates": ["1"], **body}))
    await until(model.begun.is_set)
    return task


async def test_a_poisonous_request_harms_no_neighbour(service: Toy) -> None:
    """In one batch with others it fails alone: a 500 without internals, and the others' answers as ever."""
    model, held = service.models["up"], await hold(service)
    bodies: list[dict[str, Any]] = [{"user": {"age": age}} for age in (20, POISON_AGE, 40)]
    batch = [asyncio.create_task(service.rank(candidates=CANDIDATES, **body)) for body in bodies]
    await until(lambda: model.batcher.pending_rows == 3 * len(CANDIDATES))
    model.free.set()
    first, poisoned, last = await asyncio.gather(*batch)
    await held
    assert ids(first) == ids(last) == ["7", "5", "3", "1"]
    assert poisoned.status_code == 500
    assert "secret" not in poisoned.text
    assert poisoned.json()["error"]["request_id"] == poisoned.headers["x-request-id"]
    assert max(model.runs) == 3


async def test_what_the_runtime_says_is_the_logs(service: Toy, caplog: pytest.LogCaptureFixture) -> None:
    """A caller reads one sentence and an id; under that id the log has the cause."""
    answer = await service.rank(candidates=CANDIDATES, user={"age": RUNTIME_AGE})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (500, "inference_failed")
    assert "node" not in error["message"]
    (record,) = (record for record in caplog.records if record.exc_info)
    assert vars(record)["request_id"] == error["request_id"]
    assert "node /rank/Gather" in caplog.text


async def test_too_many_waiting_rows_are_refused_at_once(tmp_path: Path) -> None:
    """429 with Retry-After in whole seconds; those that were let in are answered."""
    async with toy(tmp_path, max_queued_rows=5, max_candidates=5) as service:
        model = service.models["up"]
        accepted = [await hold(service), asyncio.create_task(service.rank(candidates=CANDIDATES))]
        await until(lambda: model.batcher.pending_rows == 4)
        refused = await service.rank(candidates=CANDIDATES)
        model.free.set()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200, 200]


async def test_a_deadline_that_passes_is_a_504(service: Toy) -> None:
    """In the queue or while the engine runs; neighbours with time are answered."""
    model, patient = service.models["up"], await hold(service, candidates=CANDIDATES, deadline_ms=9_000)
    hasty = await service.rank(candidates=CANDIDATES, deadline_ms=20)
    assert hasty.status_code == 504
    assert hasty.json()["error"]["type"] == "deadline_exceeded"
    model.free.set()
    assert ids(await patient) == ["7", "5", "3", "1"]
    assert model.runs == [1]


async def test_a_run_that_outlasts_the_deadline_is_a_504(service: Toy) -> None:
    """The caller hears of it at its deadline, not when the engine is done."""
    model = service.models["up"]
    model.free.clear()
    late = await service.rank(candidates=CANDIDATES, deadline_ms=30)
    model.free.set()
    assert late.status_code == 504


async def call(service: Toy, gone: asyncio.Event, *bodies: dict[str, Any]) -> list[Any]:
    """POST /v1/rank as a server would, for a caller who sends this and may leave; what was sent to it."""
    messages = [
        {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False} for body in bodies
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/rank", "raw_path": b"/v1/rank", "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    await service.app(scope, receive, send)
    return sent


async def test_a_caller_who_leaves_frees_its_place(service: Toy) -> None:
    """Its rows leave the queue at once, nothing runs for it, and its neighbours are answered."""
    model, held, gone = service.models["up"], await hold(service), asyncio.Event()
    leaver = asyncio.create_task(call(service, gone, {"candidates": CANDIDATES}))
    neighbour = asyncio.create_task(service.rank(candidates=CANDIDATES))
    await until(lambda: model.batcher.pending_rows == 8)
    gone.set()
    start, *_ = await leaver
    assert start["status"] == 499
    assert model.batcher.pending_rows == 4
    model.free.set()
    assert ids(await neighbour) == ["7", "5", "3", "1"]
    await held
    metrics = (await service.client.get("/metrics")).text
    assert 'rankserve_requests_total{outcome="disconnected",route="/v1/rank"} 1.0' in metrics
    assert "rankserve_in_flight 1.0" in metrics  # the scrape's own


async def test_a_cancelled_request_stays_cancelled(service: Toy) -> None:
    """What the server cancels is not taken for a caller who left."""
    model = service.models["up"]
    model.free.clear()
    task = asyncio.create_task(call(service, asyncio.Event(), {"candidates": CANDIDATES}))
    await until(model.begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.free.set()


async def test_a_caller_who_leaves_before_the_body_is_there(service: Toy) -> None:
    """Nothing is ranked, and it counts as one who left."""
    gone = asyncio.Event()
    gone.set()
    start, *_ = await call(service, gone)
    assert start["status"] == 499


async def test_a_body_that_never_ends_has_a_deadline(tmp_path: Path) -> None:
    """A caller who sends nothing more holds nothing for longer than its time."""
    async with toy(tmp_path, deadline_ms=50) as service:

        async def stalled() -> AsyncIterator[bytes]:
            yield b'{"candidates":'
            await asyncio.sleep(5)

        answer = await service.client.post("/v1/rank", content=stalled())
        assert answer.status_code == 504
