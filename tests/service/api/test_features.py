"""PUT /v1/features/{table}: who may, what is read, and what follows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import StoreFailed
from service.features.checked import AT_ONCE
from service.features.store import Row, RowKey
from service.values import MAX_TEXT
from service.wire import MAX_ROWS
from tests.service.toy import Toy, toy

TOKEN = "s3cret"
DURATION = {"groups": [{"factors": [{"item": "duration", "default": 1.0}]}]}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Toy]:
    """A running service of one worker without Redis."""
    async with toy(tmp_path, token=TOKEN, allow_request_fusion=True) as running:
        yield running


async def put(service: Toy, body: Any, table: str = "item", token: str | None = TOKEN) -> httpx.Response:
    """Write rows, as an operator."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await service.client.put(f"/v1/features/{table}", json=body, headers=headers)


def rows(**fields: Any) -> dict[str, Any]:
    """A row of an item."""
    return {"rows": [{"key": "1", "fields": fields}]}


async def durations(service: Toy, *candidates: object) -> dict[str, float]:
    """What the formula reads of items."""
    answer = await service.rank(candidates=candidates, fusion=DURATION)
    assert answer.status_code == 200, answer.text
    return {item["id"]: round(item["score"], 6) for item in answer.json()["items"]}


async def test_rows_hold_from_the_answer_on(service: Toy) -> None:
    """A stored row beats the bundle's, a request beats both, and what the store alone knows is known."""
    assert await durations(service, "1", "2") == {"1": 10, "2": 20}
    sent = {"rows": [{"key": 1, "fields": {"duration": 55}}, {"key": ["new"], "fields": {"duration": 5}}]}
    answer = await put(service, sent)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["table"], said["written"]) == ("item", 2)
    assert said["stamp_ms"] > 1_600_000_000_000
    inline = {"id": "2", "features": {"duration": 7}}
    assert await durations(service, "1", inline, "new") == {"1": 55, "2": 7, "new": 5}
    slate = (await service.rank(candidates=["1", "new", "unknown"])).json()
    assert (slate["degraded"], slate["defaults"]) == ([], {"users": 0, "items": 1})


async def test_a_row_is_replaced_whole(service: Toy) -> None:
    """A field that it lacks is the bundle's again."""
    await put(service, rows(duration=55))
    assert (await put(service, rows(colour="red"))).json()["written"] == 1
    assert await durations(service, "1") == {"1": 10}


async def test_users_have_rows_too(service: Toy) -> None:
    """One that the bundle does not know is no default any more."""
    assert (await service.rank(user_id="9", candidates=["1"])).json()["defaults"]["users"] == 1
    await put(service, {"rows": [{"key": "9", "fields": {"age": 33}}]}, table="user")
    assert (await service.rank(user_id="9", candidates=["1"])).json()["defaults"]["users"] == 0


async def test_operators_alone_may(service: Toy) -> None:
    """401 without the token; and nothing has changed."""
    for token in (None, "wrong"):
        assert (await put(service, rows(duration=55), token=token)).status_code == 401
    assert await durations(service, "1") == {"1": 10}


async def test_a_service_without_a_token_is_closed(tmp_path: Path) -> None:
    """Whoever asks."""
    async with toy(tmp_path) as service:
        assert (await put(service, rows(duration=55))).status_code == 403


async def test_several_workers_without_redis_take_none(tmp_path: Path) -> None:
    """The others would not see them."""
    async with toy(tmp_path, token=TOKEN, workers=2) as service:
        answer = await put(service, rows(duration=55))
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "forbidden")
        assert "--redis" in answer.json()["error"]["message"]


async def test_a_model_is_told_of_items_that_were_looked_up_anew(service: Toy) -> None:
    """The one that serves, of those that are not as in its bundle."""
    await put(service, {"rows": [{"key": "2", "fields": {}}]})  # an empty store is not asked
    await durations(service, "1", "2")
    await put(service, {"rows": [{"key": item, "fields": {"duration": 55}} for item in ("1", "8")]})
    async with asyncio.timeout(10):
        while not service.models["up"].held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert service.models["up"].held == [1]


async def test_a_table_that_no_version_has(service: Toy) -> None:
    """404, with the tables that there are."""
    answer = await put(service, rows(duration=55), table="author")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "unknown_table")
    assert "tables: item, user" in answer.json()["error"]["message"]


async def test_no_version_knows_any_table(tmp_path: Path) -> None:
    """503 while none is in memory."""
    async with toy(tmp_path, deployed=None, token=TOKEN) as service:
        assert (await put(service, rows(duration=55))).status_code == 503


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "rows"),
        ({"rows": []}, "rows"),
        ({"rows": [{"key": "1"}]}, "rows[0].fields"),
        ({"rows": [{"fields": {}}]}, "rows[0].key"),
        ({"rows": [{"key": None, "fields": {}}]}, "rows[0].key[0]"),
        ({"rows": [{"key": [], "fields": {}}]}, "rows[0].key"),
        ({"rows": [{"key": ["1", "2"], "fields": {}}]}, "rows[0].key"),
        ({"rows": [{"key": "1", "fields": {"a": {"b": 1}}}]}, "rows[0].fields.a"),
        ({"rows": [{"key": "1", "fields": {"a": [None]}}]}, "rows[0].fields.a"),
        ({"rows": [{"key": "1", "fields": {"a": 2**64}}]}, "rows[0].fields.a"),
        ({"rows": [{"key": "1", "fields": {"a" * (MAX_TEXT + 1): 1}}]}, "rows[0].fields"),
        ({"rows": [{"key": "1", "fields": {}, "ttl": 5}]}, "rows[0].ttl"),
        ({"rows": [{"key": "1", "fields": {}}] * (MAX_ROWS + 1)}, "rows"),
        ({"rows": [{"key": "1", "fields": {"a": ["x" * 1_000] * 70}}]}, "rows[0]"),
        (
            {"rows": [{"key": "1", "fields": {}}, {"key": "2", "fields": {"duration": "long"}}]},
            "rows[1].fields.duration",
        ),
    ],
)
async def test_what_is_wrong_is_named(service: Toy, body: Any, field: str) -> None:
    """422 with the path; of such a batch nothing is written."""
    answer = await put(service, body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field), answer.text


async def test_a_value_that_a_version_cannot_read_is_refused(service: Toy) -> None:
    """Stored, it would mark every answer with that row; wherever it stands, and nothing is written."""
    many = [{"key": str(at), "fields": {"duration": at}} for at in range(AT_ONCE + 50)]
    answer = await put(service, {"rows": [*many, {"key": "1", "fields": {"duration": "cheap"}}]})
    assert answer.json()["error"]["field"] == f"rows[{AT_ONCE + 50}].fields.duration"
    assert "up cannot read it: expected a number, got 'cheap'" in answer.json()["error"]["message"]
    assert service.serving.features.store.empty


async def test_a_store_that_does_not_answer(service: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 for the operator, who is told to try again; readiness says so and stays."""

    async def fail(written: dict[RowKey, Row]) -> int:
        raise StoreFailed("memory", "unreachable", "cannot be reached")

    monkeypatch.setattr(service.serving.features.store, "put", fail)
    answer = await put(service, rows(duration=55))
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "store_failed")
    assert "retry-after" in answer.headers
    ready = await service.client.get("/readyz")
    assert (ready.status_code, ready.json()["store"]) == (200, {"name": "memory", "state": "ok"})


async def test_a_store_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """504 at the longest deadline: whether the rows are written, nobody knows."""

    async def hang(written: dict[RowKey, Row]) -> int:
        await asyncio.Event().wait()
        return 0

    async with toy(tmp_path, token=TOKEN, deadline_ms=50, max_deadline_ms=50) as service:
        monkeypatch.setattr(service.serving.features.store, "put", hang)
        answer = await put(service, rows(duration=55))
    assert (answer.status_code, answer.json()["error"]["type"]) == (504, "deadline_exceeded")
    assert "again" in answer.json()["error"]["message"]


async def test_what_is_near_is_counted(service: Toy) -> None:
    """Once there is something in the store."""
    await put(service, rows(duration=55))
    for _ in range(2):
        await service.rank(user_id="1", candidates=["1", "2"])
    metrics = (await service.client.get("/metrics")).text
    assert 'rankserve_near_rows_total{found="no"} 3.0' in metrics
    assert 'rankserve_near_rows_total{found="yes"} 3.0' in metrics
    assert "rankserve_fetch_seconds_count 1.0" in metrics
