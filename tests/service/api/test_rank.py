"""POST /v1/rank, from bytes to bytes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import ormsgpack
import pytest

from service.wire import RankResponse
from tests.service.toy import NO_NUMBER, Toy, ids, toy

CANDIDATES = ["3", "7", "1", "5"]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Toy]:
    """A running service with the version "up"."""
    async with toy(tmp_path) as running:
        yield running


async def test_a_slate_is_ordered_by_score(service: Toy) -> None:
    """The best first, with nothing that was not asked for."""
    answer = await service.rank(user_id="1", candidates=CANDIDATES, request_id="r-1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["request_id"], body["ranker"], body["version"]) == ("r-1", "default", "up")
    assert ids(answer) == ["7", "5", "3", "1"]
    assert all(item.keys() == {"id", "score"} for item in body["items"])
    assert body["degraded"] == []
    assert body["defaults"] == {"users": 0, "items": 0}
    assert set(body["timings_ms"]) >= {"encode", "wait", "user", "item", "rank", "fuse", "total"}


async def test_the_answer_is_what_the_documentation_promises(service: Toy) -> None:
    """The encoder builds it from arrays; it reads back as a `RankResponse`, with every option."""
    answer = await service.rank(user_id="1", candidates=CANDIDATES, tasks=True, explain=True)
    read = RankResponse.model_validate_json(answer.content, strict=True, extra="forbid")
    assert read.model_dump(mode="json", exclude_unset=True) == answer.json()


async def test_the_documented_route_gives_the_same(service: Toy) -> None:
    """The framework's route, which only those ask who run the app without a worker; faults as well."""
    asked = [
        {"user_id": "1", "candidates": CANDIDATES, "tasks": True, "request_id": "r-1"},
        {"user_id": "1", "candidates": [], "request_id": "r-2"},
        {"user_id": "1", "candidates": CANDIDATES, "ranker": "nobody", "request_id": "r-3"},
    ]
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://toy") as framework:
        for body in asked:
            answers = [
                await client.post("/v1/rank", json=body, headers={"x-request-id": "r-9"})
                for client in (service.client, framework)
            ]
            direct, routed = (
                (answer.status_code, answer.headers["content-type"], answer.headers["x-request-id"])
                for answer in answers
            )
            assert direct == routed
            said = [answer.json() for answer in answers]
            assert all(each.pop("timings_ms", None) for each in said) == (direct[0] == 200)
            assert said[0] == said[1]
    metrics = (await service.client.get("/metrics")).text
    for outcome in ("ok", "invalid", "unknown_ranker"):
        assert f'rankserve_requests_total{{outcome="{outcome}",route="/v1/rank"}} 2.0' in metrics
    assert (await service.client.get("/v1/rank")).status_code == 405


async def test_a_header_that_comes_twice_is_read_as_it_comes_first(service: Toy) -> None:
    """By the framework's route and past it."""
    packed = ormsgpack.packb({"candidates": CANDIDATES})
    forms = [("content-type", "application/msgpack"), ("content-type", "application/json")]
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://toy") as framework:
        for client in (service.client, framework):
            for headers, status in ((forms, 200), (forms[::-1], 422)):
                assert (await client.post("/v1/rank", content=packed, headers=headers)).status_code == status


async def test_messagepack_goes_in_and_comes_out(service: Toy) -> None:
    """By content type, and back in the same form unless Accept names the other; the same answer in both."""
    asked = {"user_id": "1", "candidates": CANDIDATES, "tasks": True, "request_id": "r-1"}
    in_json, packed = await service.rank(**asked), ormsgpack.packb(asked)
    headers = {"content-type": "application/x-msgpack"}
    same = await service.client.post("/v1/rank", content=packed, headers=headers)
    headers["accept"] = "application/json"
    other = await service.client.post("/v1/rank", content=packed, headers=headers)
    back = await service.client.post("/v1/rank", json=asked, headers={"accept": "application/msgpack"})
    kinds = [answer.headers["content-type"] for answer in (in_json, same, other, back)]
    assert kinds == ["application/json", "application/msgpack", "application/json", "application/msgpack"]
    said = [in_json.json(), ormsgpack.unpackb(same.content), other.json(), ormsgpack.unpackb(back.content)]
    for answer in said:
        RankResponse.model_validate(answer, strict=True, extra="forbid")
        items = answer["items"]
        assert [(item["id"], item["score"]) for item in items] == [
            (item["id"], item["score"]) for item in said[0]["items"]
        ]
        assert [item["tasks"] for item in items] == [
            pytest.approx(item["tasks"], rel=1e-7) for item in said[0]["items"]
        ]


async def test_a_fault_in_messagepack_is_told_in_json(service: Toy) -> None:
    """As every fault of the service is, with the field named."""
    headers = {"content-type": "application/msgpack"}
    for body, field in [(b"\xc1", None), (ormsgpack.packb({"candidates": [b"1"]}), "candidates[0]")]:
        answer = await service.client.post("/v1/rank", content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
        assert answer.json()["error"].get("field") == field


async def test_scores_are_the_formula_of_the_task_scores(service: Toy) -> None:
    """A product, click · watch^½, and the parts of `explain` add up to its logarithm."""
    answer = await service.rank(user_id="1", candidates=CANDIDATES, tasks=True, explain=True)
    for item in answer.json()["items"]:
        click, watch = item["tasks"]["click"], item["tasks"]["watch"]
        assert item["score"] == pytest.approx(click * watch**0.5)
        (group,) = item["factors"]
        assert [factor["name"] for factor in group["factors"]] == ["click", "watch"]
        parts = group["log_weight"] + sum(factor["log"] for factor in group["factors"])
        assert parts == pytest.approx(group["log_score"]) == pytest.approx(np.log(item["score"]))


async def test_limit_gives_the_best(service: Toy) -> None:
    """As many as asked for, or as there are."""
    assert ids(await service.rank(candidates=CANDIDATES, limit=2)) == ["7", "5"]
    assert len(ids(await service.rank(candidates=CANDIDATES, limit=99))) == 4


async def test_duplicates_keep_their_places(service: Toy) -> None:
    """An id that comes twice is ranked twice, and equal scores stay in the order of the request."""
    answer = await service.rank(candidates=["2", "x", "2", "y", "2"])
    assert ids(answer) == ["2", "2", "2", "x", "y"]


async def test_unknown_ids_are_ranked_and_counted(service: Toy) -> None:
    """Strangers get the default row, negative and empty ids too; what came with features is not counted."""
    answer = await service.rank(
        user_id=-4, candidates=[-1, "", {"id": "new", "features": {"duration": 5}}, "3"], tasks=True
    )
    assert answer.status_code == 200
    assert answer.json()["defaults"] == {"users": 1, "items": 2}
    assert ids(answer) == ["3", "-1", "", "new"]
    known = await service.rank(user_id=-4, user={"age": 20}, candidates=["3"])
    assert known.json()["defaults"] == {"users": 0, "items": 0}


async def test_what_the_model_gives_no_number_for_comes_last(service: Toy) -> None:
    """With a null score, in valid JSON, and counted; its neighbours are as ever."""
    answer = await service.rank(user={"age": 13}, candidates=[NO_NUMBER, "2", "3"], tasks=True, explain=True)
    assert ids(answer) == ["3", "2", NO_NUMBER]
    last = answer.json()["items"][-1]
    assert last["score"] is None
    assert last["tasks"]["click"] is None
    assert last["tasks"]["watch"] == 10
    assert last["factors"][0]["log_score"] is None
    metrics = (await service.client.get("/metrics")).text
    assert 'rankserve_not_finite_total{version="up"} 1.0' in metrics


BAD = [
    (b"", 422, None),
    (b"not json", 422, None),
    (b'{"candidates": []}', 422, "candidates"),
    (b'{"candidates": [1, 2, 3, 4, 5, 6]}', 422, "candidates"),
    (b'{"candidates": [true]}', 422, "candidates[0]"),
    (b'{"candidates": [1], "user": {"age": NaN}}', 422, "user.age"),
    (b'{"candidates": [{"id": 1, "features": {"duration": 1e999}}]}', 422, "candidates[0].features.duration"),
    (b'{"candidates": [1], "user": {"age": "old"}}', 422, "user.age"),
    (b'{"candidates": [{"id": 1, "features": {"duration": [1]}}]}', 422, "candidates[0].features.duration"),
    (b'{"candidates": [1], "ranker": "no-such"}', 404, None),
    (b'{"candidates": [1], "fusion": {"groups": [{"factors": [{"task": "no-such"}]}]}}', 422, "fusion"),
    (
        b'{"candidates": [1], "fusion": {"groups": [{"factors": [{"item": "nix", "default": 1}]}]}}',
        422,
        "fusion",
    ),
]


@pytest.mark.parametrize(("body", "status", "field"), BAD, ids=lambda value: str(value)[:60])
async def test_bad_input_is_the_callers_fault(
    tmp_path: Path, body: bytes, status: int, field: str | None
) -> None:
    """A clear 4xx that names the field, with the request's id; and the next request is answered."""
    async with toy(tmp_path, max_candidates=5, allow_request_fusion=True) as service:
        answer = await service.post(body, **{"X-Request-Id": "mine"})
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error.get("field") == field
        assert error["message"]
        assert error["request_id"] == answer.headers["x-request-id"] == "mine"
        assert ids(await service.rank(candidates=CANDIDATES)) == ["7", "5", "3", "1"]


async def test_a_numeric_feature_of_any_size_is_answered(service: Toy) -> None:
    """The largest float that JSON can carry is a number, and no 500."""
    answer = await service.rank(user={"age": 1e308}, context={"hour": -1e308}, candidates=[1, 2])
    assert answer.status_code == 200


async def test_a_formula_of_the_requests_own_needs_the_operators_leave(tmp_path: Path) -> None:
    """Closed by default; where it is open, the request's formula orders the slate."""
    mine = {"groups": [{"factors": [{"item": "duration", "default": 1.0, "weight": -1, "offset": 1}]}]}
    async with toy(tmp_path / "closed") as service:
        refused = await service.rank(candidates=CANDIDATES, fusion=mine)
        assert refused.status_code == 403
        assert "RANKSERVE_ALLOW_REQUEST_FUSION" in refused.json()["error"]["message"]
    async with toy(tmp_path / "open", allow_request_fusion=True) as service:
        assert ids(await service.rank(candidates=CANDIDATES, fusion=mine)) == ["1", "3", "5", "7"]
        assert ids(await service.rank(candidates=CANDIDATES)) == ["7", "5", "3", "1"]


async def test_a_body_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    """413, by its declared length before a byte is read, and in chunks as soon as they are too many."""
    async with toy(tmp_path, max_body_bytes=2_000) as service:
        declared = await service.post(b'{"candidates": [' + b"1," * 2_000 + b"1]}")
        assert declared.status_code == 413
        assert declared.headers["connection"] == "close"
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 500
                yield b" " * 500

        chunked = await service.client.post("/v1/rank", content=endless())
        assert chunked.status_code == 413
        assert chunked.json()["error"]["type"] == "too_large"
        assert sent == 2_500


async def test_compressed_bodies_are_refused(service: Toy) -> None:
    """415 before a byte is read: no small body grows large in here."""
    answer = await service.post(b"\x1f\x8b", **{"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"\xc3\xa9"])
async def test_every_answer_has_an_id(service: Toy, given: bytes) -> None:
    """A new one where none, or none that is fit for a header, was given; and each its own."""
    body, headers = json.dumps({"candidates": CANDIDATES}), {b"x-request-id": given}
    answers = [await service.client.post("/v1/rank", content=body, headers=headers) for _ in range(2)]
    found = [answer.headers["x-request-id"] for answer in answers]
    assert found == [answer.json()["request_id"] for answer in answers]
    assert len({*found, given.decode()}) == 3
