"""The workload of the serving benchmark, in small: what it writes is whole, and its parts tell the same."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import Connection, Pool, message
from benchmarks.offline import Offline
from benchmarks.running import deployed, serving
from benchmarks.serving.answers import Expected, WrongAnswer, bundle_of, counts_of, expected, requests_of
from benchmarks.serving.freshness import ITEMS, OFTEN, Change, probe
from benchmarks.serving.held import Held
from benchmarks.serving.memory import compare, measure
from benchmarks.serving.peers.scorer import FEATURES_FILE, Scorer
from benchmarks.serving.swap import TOKEN, with_twin
from benchmarks.serving.swap import measure as swap
from benchmarks.serving.workload import TASKS, Sizes, write
from service.model import Model, ModelOptions
from tests.training.operators import operators_read_once

SMALL = {
    "mmoe": {"embedding": 2, "experts": 2, "expert_hidden": [8, 4], "tower_hidden": [4]},
    "ple": {"embedding": 2, "shared_experts": 1, "levels": [[8], [4]], "tower_hidden": [4]},
}
STATE = {"mmoe": "float32", "ple": "float16"}
CANDIDATES = 7


@pytest.fixture(scope="module", params=["mmoe", pytest.param("ple", marks=pytest.mark.slow)])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workload of each architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    sizes = Sizes(30, 40, 3, 2, 50, (CANDIDATES,), SMALL[request.param])
    with operators_read_once():
        write(folder, request.param, sizes, STATE[request.param])
    return folder


def test_the_service_loads_what_is_promoted(out: Path) -> None:
    """The bundle proves itself when it is loaded, with all tasks of its architecture, users and items."""
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(bundle_of(out), ModelOptions(), executor)
        try:
            assert model.manifest.outputs() == TASKS[model.manifest.architecture]
            assert model.encoder.user_row("u29") == 30
            assert model.encoder.item_rows(["i0", "i39", "i40"]).tolist() == [1, 40, 0]
            assert {array.dtype for array in model.manifest.state} == {STATE[model.manifest.architecture]}
        finally:
            model.close()
    assert counts_of(out) == (30, 40)


def test_requests_are_of_known_users_and_distinct_items(out: Path) -> None:
    """Every request asks for task scores of so many different items that there are, for a user there is."""
    requests = [json.loads(body) for body in requests_of(out, CANDIDATES)]
    assert len({request["user_id"] for request in requests}) > 1
    for request in requests:
        assert request["tasks"] is True
        assert request["user_id"] in {f"u{row}" for row in range(30)}
        assert len(set(request["candidates"]) & {f"i{row}" for row in range(40)}) == CANDIDATES


@pytest.mark.parametrize("graph", ["flat", "split"])
def test_a_peer_answers_what_is_right(out: Path, graph: str) -> None:
    """By either graph, alone or with other requests, a peer's answers pass the check of the benchmark."""
    scorer = Scorer(bundle_of(out), out / FEATURES_FILE, graph)
    right = expected(bundle_of(out), requests_of(out, CANDIDATES)[:3])
    requests = [json.loads(each.body) for each in right]
    for each, alone, together in zip(
        right, [scorer.rank([request])[0] for request in requests], scorer.rank(requests), strict=True
    ):
        each.check(alone)
        each.check(together)


def test_a_wrong_answer_is_told() -> None:
    """Another score, order or set of items does not pass."""
    right = Expected(b"", ["a", "b"], {"click": np.array([0.1, 0.2], np.float32)}, np.array([0.1, 0.2]))
    pairs = (("b", 0.2), ("a", 0.1))
    items = [{"id": each, "score": score, "tasks": {"click": score}} for each, score in pairs]
    right.check(json.dumps({"items": items}).encode())
    right.check(json.dumps({"items": items[:1]}).encode(), limit=1)
    wrong = (items[::-1], items[:1], [items[0]] * 2, [{**items[0], "score": 0.21}, items[1]])
    for answer in wrong:
        with pytest.raises(WrongAnswer):
            right.check(json.dumps({"items": answer}).encode())
    for answer in (items, items[1:], []):
        with pytest.raises(WrongAnswer):
            right.check(json.dumps({"items": answer}).encode(), limit=1)


async def test_new_features_are_new_scores(out: Path) -> None:
    """What a probe takes for right, by the flat graph alone, is what a service answers from then on."""
    offline = Offline(bundle_of(out))
    change = Change(np.arange(ITEMS), np.arange(ITEMS) + ITEMS)
    with serving(out / "models", workers=1, token="probe") as service:
        async with Pool(service.port, greets=True) as pool:
            seen = await probe(pool, offline, change, "u3", change.put(offline, "probe"), 1)
    assert len(seen) >= OFTEN
    assert {each.kind for each in seen} == {"new"}
    assert not any(each.stale for each in seen)


async def test_two_services_are_measured_beside_each_other(out: Path) -> None:
    """Of each, the time of every request after the warm-up, and what it says it holds; their scores agree."""
    bodies = [json.loads(body) for body in requests_of(out, CANDIDATES)[:5]]
    asked = [message("POST", "/v1/rank", body) for body in bodies]
    with (
        serving(out / "models", workers=1, state_mib=1) as part,
        serving(out / "models", workers=1, state_mib=8) as whole,
    ):
        found = await measure({"a part": part, "the whole": whole}, asked, warm_up=2)
        assert compare([part, whole], bodies, 1e-5) <= 1e-5
    for name, budget in (("a part", 1), ("the whole", 8)):
        assert len(found.took_ms[name]) == 3
        assert len(found.looks[name]) == 2
        for look in found.looks[name]:
            assert 0 < look.state_mib <= budget
            assert set(look.modes.values()) == {"resident"}
            assert 0 < look.pss <= look.rss


async def test_a_twin_takes_the_place_of_a_bundle(out: Path, tmp_path: Path) -> None:
    """It is loaded beside it, with a state of its own, and no request fails meanwhile."""
    version, twin = with_twin(bundle_of(out), tmp_path)
    asked = [message("POST", "/v1/rank", json.loads(body)) for body in requests_of(out, CANDIDATES)]
    options = argparse.Namespace(rate=30.0, warm_up=0.2, seconds=0.5)
    looks: list[Held] = []
    with deployed(tmp_path, [version, twin]) as models, serving(models, workers=1, token=TOKEN) as service:
        swapped = await swap(service, asked, twin, options, looks)
        connection = await Connection.open(service.port)
        assert (await connection.ask(asked[0])).json()["version"] == twin
        connection.close()
    assert {outcome.kind for outcome in [*swapped.quiet, *swapped.noticed]} == {"ok"}
    assert looks
    assert set(looks[0].state) == {version}
