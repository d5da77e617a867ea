"""The whole worker over a real bundle: from bytes to the scores of its graphs and back."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.bundle import deployment
from service.bundle.columns import Value
from service.bundle.deployment import DeployedRanker
from service.bundle.golden import GoldenRequest
from service.settings import Settings
from tests.service.answers import Expected, body
from tests.tiny import Tiny, write_tiny
from tests.tiny_features import FEATURES, tiny_requests


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A bundle, deployed."""
    models = tmp_path_factory.mktemp("models")
    bundle = write_tiny(models, "v1")
    deployment.update(models, lambda present: present.having("default", DeployedRanker(version="v1")))
    return bundle


class Client:
    """A synchronous client of an app in this process: hypothesis wants many requests in one test."""

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    def get(self, path: str) -> httpx.Response:
        """GET."""
        return self._runner.run(self._client.get(path))

    def rank(self, body: Any) -> httpx.Response:
        """POST /v1/rank."""
        return self._runner.run(self._client.post("/v1/rank", content=json.dumps(body)))


@pytest.fixture(scope="module")
def client(tiny: Tiny) -> Iterator[Client]:
    """A client of a worker that serves it."""
    app = create_app(Settings(models=tiny.folder.parent, max_candidates=50, provider="cpu"))
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Client(app, runner)
        runner.run(lifespan.__aexit__(None, None, None))


@pytest.mark.parametrize("request_", tiny_requests(), ids=lambda request: f"user {request.user_id}")
def test_the_answer_has_the_scores_of_the_model(client: Client, tiny: Tiny, request_: GoldenRequest) -> None:
    """Every task's score of every candidate as numpy computes it, and the formula's of these."""
    answer = client.rank(body(request_))
    assert answer.status_code == 200, answer.text
    expected = Expected.of(tiny, request_)
    assert expected.fits(answer.json())
    order = np.argsort(-expected.fused, kind="stable")
    assert [item["id"] for item in answer.json()["items"]] == [request_.item_ids[at] for at in order]


def test_a_worker_in_service_shows_its_provider(client: Client) -> None:
    """In /readyz and beside the model."""
    assert client.get("/readyz").json()["provider"] == "CPUExecutionProvider"
    assert client.get("/v1/models/v1").json()["provider"] == "CPUExecutionProvider"


def test_candidates_that_are_all_new_are_ranked(client: Client) -> None:
    """As many as a request can hold, none of which the version has ever seen."""
    candidates = [{"id": f"new {n}", "features": {"length": n}} for n in range(50)]
    answer = client.rank({"candidates": candidates})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["items"]) == 50


NAMES = [source.partition(".")[2] for feature in FEATURES if (source := feature.get("source"))]
TEXTS = st.text(max_size=5) | st.sampled_from(["3", "t1", "a3", "feed"])
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = (
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["3", "t1", "a3", "feed"])
)
VALUES: st.SearchStrategy[Value] = SCALARS | st.lists(NUMBERS | TEXTS, max_size=8)
FIELDS = st.dictionaries(st.sampled_from([*NAMES, "user_author.rate", "surprise"]), VALUES, max_size=4)
IDS = st.integers(-5, 300) | st.text(max_size=4)
CANDIDATES = st.lists(IDS | st.fixed_dictionaries({"id": IDS, "features": FIELDS}), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(user_id=st.none() | IDS, user=FIELDS, context=FIELDS, candidates=CANDIDATES)
def test_no_value_of_a_feature_is_a_500(
    client: Client, user_id: object, user: object, context: object, candidates: list[object]
) -> None:
    """Every value under every name: a whole slate, or a 422 that names the field."""
    sent = {"user_id": user_id, "user": user, "context": context, "candidates": candidates}
    answer = client.rank(sent)
    if answer.status_code == 200:
        assert len(answer.json()["items"]) == len(candidates)
    else:
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["field"]
