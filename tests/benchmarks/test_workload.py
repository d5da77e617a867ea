"""The workload of the serving benchmark, in small: what it writes is whole, and its parts tell the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.answers import Expected, WrongAnswer, bundle_of, expected, requests_of
from benchmarks.serving.peers.scorer import Scorer
from benchmarks.serving.workload import FEATURES, TASKS, Sizes, write
from service.model import Model, ModelOptions

SMALL = {
    "mmoe": {"embedding": 2, "experts": 2, "expert_hidden": [8, 4], "tower_hidden": [4]},
    "ple": {"embedding": 2, "shared_experts": 1, "levels": [[8], [4]], "tower_hidden": [4]},
}
CANDIDATES = 7


@pytest.fixture(scope="module", params=["mmoe", pytest.param("ple", marks=pytest.mark.slow)])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workload of each architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    sizes = Sizes(30, 40, 3, 2, 50, (CANDIDATES,), SMALL[request.param])
    write(folder, request.param, sizes)
    return folder


def test_the_service_loads_what_is_promoted(out: Path) -> None:
    """The bundle proves itself when it is loaded, with all tasks of its architecture, users and items."""
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(bundle_of(out), ModelOptions(), executor)
        try:
            assert model.manifest.outputs() == TASKS[model.manifest.architecture]
            assert model.encoder.user_row("u29") == 30
            assert model.encoder.item_rows(["i0", "i39", "i40"]).tolist() == [1, 40, 0]
        finally:
            model.close()


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
    scorer = Scorer(bundle_of(out), out / FEATURES, graph)
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
    wrong = (items[::-1], items[:1], [{**items[0], "score": 0.21}, items[1]])
    for answer in wrong:
        with pytest.raises(WrongAnswer):
            right.check(json.dumps({"items": answer}).encode())
