"""The operators' routes, and what anyone may see of versions and rankers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.bundle import deployment
from service.bundle.deployment import DeployedRanker
from service.bundle.fusion import FusionFormula
from service.state import CROWDED
from tests.service.shelf import until
from tests.service.toy import Toy, ToyModel, eventually, ids, toy

TOKEN = "s3cret-é"
OPERATOR = {b"authorization": f"Bearer {TOKEN}".encode()}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Toy]:
    """A running service with the version "up" and a token."""
    async with toy(tmp_path, token=TOKEN) as running:
        yield running


async def put(service: Toy, version: object, ranker: str = "default") -> httpx.Response:
    """Promote a version, as an operator."""
    return await service.client.put(f"/v1/rankers/{ranker}", json={"version": version}, headers=OPERATOR)


async def serving_with(service: Toy, ranker: str = "default") -> str:
    """The version that answers."""
    answer = await service.rank(candidates=["1", "2"], ranker=ranker)
    version: str = answer.json()["version"]
    return version


ROUTES = [
    ("PUT", "/v1/rankers/default"),
    ("POST", "/v1/rankers/default/rollback"),
    ("GET", "/v1/workers"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_operators_routes_are_closed_without_a_token(tmp_path: Path, method: str, path: str) -> None:
    """Whatever the caller sends: a service that has no token has no operators."""
    async with toy(tmp_path) as service:
        answer = await service.client.request(method, path, headers={"Authorization": "Bearer x"})
        assert answer.status_code == 403
        assert "RANKSERVE_TOKEN" in answer.json()["error"]["message"]


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", "Basic czNjcmV0", "s3cret-é"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_operators_routes_want_the_token(
    service: Toy, method: str, path: str, given: str | None
) -> None:
    """401 without it, or with another; and nothing has happened."""
    headers = {} if given is None else {b"authorization": given.encode()}
    answer = await service.client.request(method, path, headers=headers, json={"version": "down"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert await serving_with(service) == "up"


async def test_promote_and_roll_back(service: Toy) -> None:
    """The answer comes once the ranker has moved; back is one call, and twice is forth again."""
    assert await serving_with(service) == "up"
    answer = await put(service, "down")
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"generation": 0} == {
        "ranker": "default",
        "version": "down",
        "previous": "up",
        "generation": 0,
        "workers": [service.serving.registry.worker],
        "behind": {},
    }
    assert await serving_with(service) == "down"
    back = await service.client.post("/v1/rankers/default/rollback", headers=OPERATOR)
    assert (back.status_code, back.json()["version"]) == (200, "up")
    assert await serving_with(service) == "up"


async def test_a_ranker_of_a_new_name_is_made(service: Toy) -> None:
    """Promoting a version to it is all it takes."""
    assert (await service.rank(candidates=["1"], ranker="feed")).status_code == 404
    assert (await put(service, "down", ranker="feed")).status_code == 200
    assert (await serving_with(service, "feed"), await serving_with(service)) == ("down", "up")


async def test_a_version_that_cannot_be_loaded_is_refused(service: Toy) -> None:
    """409 with the reason a worker; what served goes on, and nothing stays staged."""
    answer = await put(service, "broken")
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["type"] == "swap_refused"
    assert "weights.bin was altered" in error["reasons"][service.serving.registry.worker]
    assert await serving_with(service) == "up"
    (ranker,) = (await service.client.get("/v1/rankers")).json()["rankers"]
    assert (ranker["version"], ranker["deployed"], ranker["staged"]) == ("up", "up", None)


async def test_a_later_promotion_overtakes_an_earlier_one(service: Toy) -> None:
    """The earlier caller gets 409 `superseded`; the later one its version."""
    free = service.hold("down")
    earlier = asyncio.create_task(put(service, "down"))
    await until(lambda: deployment.read(service.settings.models).rankers["default"].staged)
    later = await put(service, "up")
    free.set()
    overtaken = await earlier
    assert (overtaken.status_code, overtaken.json()["error"]["type"]) == (409, "superseded")
    assert (later.status_code, later.json()["version"]) == (200, "up")
    assert await serving_with(service) == "up"


async def test_a_worker_that_does_not_follow_is_an_error(tmp_path: Path) -> None:
    """504 with the reason a worker: 200 would say that all have."""
    async with toy(tmp_path, token=TOKEN, swap_timeout_s=3) as service:
        hung = service.serving.registry.status().model_copy(
            update={"worker": "hung", "ready": ("up", "down")}
        )
        deployment.report(tmp_path, hung.model_copy(update={"generation": 99}))
        answer = await put(service, "down")
        assert (answer.status_code, answer.json()["error"]["type"]) == (504, "not_followed")
        assert answer.json()["error"]["reasons"] == {"hung": "not within 3 s"}
        assert await serving_with(service) == "down"


async def test_a_worker_that_ends_lets_its_promotions_go(service: Toy) -> None:
    """What another worker is waited for may take minutes: 503, and nothing stays staged."""
    hung = service.serving.registry.status().model_copy(update={"worker": "hung"})
    deployment.report(service.settings.models, hung)
    waiting = asyncio.create_task(put(service, "down"))
    await until(lambda: deployment.read(service.settings.models).rankers["default"].staged)
    service.serving.drain()
    answer = await waiting
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "not_ready")
    assert deployment.read(service.settings.models).rankers["default"].staged is None
    assert (await put(service, "down")).status_code == 503
    assert await serving_with(service) == "up"


async def test_what_there_is_not_is_404(service: Toy) -> None:
    """And the message names what there is."""
    unknown = await put(service, "no-such")
    assert unknown.status_code == 404
    assert "broken, down, up" in unknown.json()["error"]["message"]
    lost = await service.client.post("/v1/rankers/no-such/rollback", headers=OPERATOR)
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "unknown_ranker")
    assert (await service.client.get("/v1/models/no-such")).status_code == 404
    assert (await service.client.get("/v1/models/..%2Fsecret")).status_code == 404
    assert (await service.client.get("/no/such/route")).json()["error"]["type"] == "not_found"
    assert (await service.client.get("/v1/rank")).json()["error"]["type"] == "method_not_allowed"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"version": 3}', b'{"version": ""}', b'{"version": "a", "b": 1}']
)
async def test_a_bad_promotion_is_422(service: Toy, body: bytes) -> None:
    """Read as strictly as a request to rank."""
    answer = await service.client.put("/v1/rankers/default", content=body, headers=OPERATOR)
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "invalid")


@pytest.mark.parametrize(("name", "status"), [("a%20b", 422), (".hidden", 422), ("%2e%2e%2fup", 404)])
async def test_a_ranker_has_a_plain_name(service: Toy, name: str, status: int) -> None:
    """Nothing that could be a path, which is no route of ours."""
    assert (await put(service, "down", ranker=name)).status_code == status


async def test_a_rollback_needs_something_to_go_back_to(service: Toy) -> None:
    """409 where there never was another version."""
    answer = await service.client.post("/v1/rankers/default/rollback", headers=OPERATOR)
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "swap_refused")


async def test_models_are_listed_with_their_state(service: Toy) -> None:
    """What each is, who serves it, and why one does not load."""
    refused = (await put(service, "broken")).json()["error"]
    unstaged = deployment.read(service.settings.models).generation
    await until(lambda: service.serving.registry.status().generation == unstaged)
    (broken, down, up) = (await service.client.get("/v1/models")).json()["models"]
    assert (up["version"], up["state"], up["rankers"], up["tasks"]) == (
        "up",
        "serving",
        ["default"],
        ["click", "watch"],
    )
    assert (down["version"], down["state"]) == ("down", "stored")
    assert (up["item_state"]["rows"], down["item_state"], broken["item_state"]) == (3, None, None)
    assert (broken["version"], broken["state"]) == ("broken", "failed")
    assert broken["problem"] in refused["reasons"].values()
    assert (await service.client.get("/readyz")).json()["failed"] == {"broken": broken["problem"]}


async def test_a_model_says_what_its_state_lacks(service: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain words, in the list and alone."""
    monkeypatch.setattr(ToyModel, "state", replace(ToyModel.state, mode="on_demand", note=CROWDED))
    listed = (await service.client.get("/v1/models")).json()["models"]
    alone = (await service.client.get("/v1/models/up")).json()
    notes = [line["item_state"]["note"] for line in [*listed, alone] if line["item_state"]]
    assert notes == [CROWDED] * 2


async def test_a_model_shows_what_it_claims(service: Toy) -> None:
    """Tasks, features with their scopes, formula, metrics, config; the provider where it is loaded."""
    model = (await service.client.get("/v1/models/up")).json()
    assert (model["state"], model["provider"]) == ("serving", "toy")
    held = {"mode": "resident", "rows": 3, "bytes": 300, "dtype": "float32", "shared": False, "note": None}
    assert model["item_state"] == held
    assert model["precision"] == {"precision": "float32", "float32_ms": None, "int8_ms": None}
    assert model["metrics"] == {"test": {"click": {"auc": 0.75}}}
    assert [(one["name"], one["scope"]) for one in model["features"]] == [
        ("item", "item"), ("duration", "item"), ("age", "user"), ("hour", "context"),
    ]  # fmt: skip
    assert model["files"].keys() == {"manifest.json", "weights.bin"}
    assert (await service.client.get("/v1/models/down")).json()["provider"] is None


async def test_a_bundle_whose_manifest_is_broken_is_listed_as_such(service: Toy) -> None:
    """The list goes on; asking for it says why."""
    (service.settings.models / "down" / "manifest.json").write_text("{")
    listed = {model["version"]: model for model in (await service.client.get("/v1/models")).json()["models"]}
    assert listed["down"]["state"] == "broken"
    assert "manifest.json" in listed["down"]["problem"]
    answer = await service.client.get("/v1/models/down")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "broken_bundle")


async def test_workers_are_the_operators_to_see(service: Toy) -> None:
    """Each with what it serves."""
    answer = await service.client.get("/v1/workers", headers=OPERATOR)
    (worker,) = answer.json()["workers"]
    assert worker["rankers"] == {"default": "up"}
    assert worker["worker"] == service.serving.registry.worker


async def test_a_deployed_formula_is_used_and_shown(tmp_path: Path) -> None:
    """It replaces the bundle's own, without a new bundle."""
    formula = {"groups": [{"factors": [{"item": "duration", "default": 1.0, "weight": -1, "offset": 1}]}]}
    async with toy(tmp_path) as service:
        before = await service.rank(candidates=["1", "2"])
        ranker = DeployedRanker(version="up", fusion=FusionFormula.parse(formula))
        deployment.update(tmp_path, lambda present: present.having("default", ranker))
        after = await eventually(
            lambda: service.rank(candidates=["1", "2"]),
            lambda answer: answer.json()["items"] != before.json()["items"],
        )
        assert ids(after) == ["1", "2"]
        (ranker,) = (await service.client.get("/v1/rankers")).json()["rankers"]
        assert ranker["fusion"]["groups"][0]["factors"][0]["item"] == "duration"
