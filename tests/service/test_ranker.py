"""The order of a slate, and what is said about it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.errors import FeatureError, FusionError
from service.bundle.fusion import FusionFormula
from service.cost import Cost
from service.errors import DeadlineExceeded, Overloaded, UnknownRanker
from service.ranker import Slate, best
from service.wire import RankRequest
from tests.service.toy import Toy, toy

FLOATS = st.one_of(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), st.floats())


@given(st.lists(FLOATS, min_size=1, max_size=30), st.none() | st.integers(1, 40))
def test_the_order_is_that_of_a_naive_sort(scores: list[float], limit: int | None) -> None:
    """Descending; equal scores as they came; NaN last, also as it came."""
    order = best(np.array(scores), limit).tolist()
    naive = sorted(range(len(scores)), key=lambda at: (np.isnan(scores[at]), -scores[at]))
    assert order == naive[:limit]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Toy]:
    """A running service with the version "up"."""
    async with toy(tmp_path) as running:
        yield running


async def rank(service: Toy, request: RankRequest, within_s: float = 5.0) -> Slate:
    """A slate, without HTTP."""
    return await service.serving.ranker.rank(request, asyncio.get_running_loop().time() + within_s)


async def test_a_slate_holds_arrays_in_the_order_of_the_request(service: Toy) -> None:
    """`order` alone says who is where; nothing else is moved."""
    slate = await rank(service, RankRequest(candidates=["3", "7", "1"], limit=2))
    assert (slate.ids, slate.order.tolist()) == (["3", "7", "1"], [1, 0])
    assert list(slate.tasks) == ["click", "watch"]
    assert slate.tasks["click"] == pytest.approx([0.3, 0.7, 0.1])
    assert slate.factors is None


async def test_stages_add_up_to_no_more_than_the_total(service: Toy) -> None:
    """The wait is what the batch took beyond the engine."""
    timings = (await rank(service, RankRequest(candidates=["3"]))).timings_ms
    assert all(ms >= 0 for ms in timings.values())
    assert timings["encode"] + timings["wait"] + timings["fuse"] <= timings["total"]


async def test_features_of_one_candidate_are_its_own(service: Toy) -> None:
    """An attribute that the formula reads comes from the request where it gives one."""
    formula = {"groups": [{"factors": [{"item": "duration", "default": 1.0}]}]}
    request = {"candidates": ["1", {"id": "1", "features": {"duration": 99}}, "9"], "fusion": formula}
    slate = await rank(service, RankRequest.model_validate(request))
    assert slate.scores.tolist() == pytest.approx([10, 99, 90])
    assert slate.order.tolist() == [1, 2, 0]


async def test_the_lease_is_given_back_whatever_happens(service: Toy) -> None:
    """After success, a refused value, a refused formula and a deadline alike."""
    unknown = FusionFormula.parse({"groups": [{"factors": [{"task": "no-such"}]}]})
    await rank(service, RankRequest(candidates=["1"]))
    with pytest.raises(FeatureError):
        await rank(service, RankRequest(candidates=["1"], user={"age": "old"}))
    with pytest.raises(FusionError, match="no-such"):
        await rank(service, RankRequest(candidates=["1"], fusion=unknown))
    with pytest.raises(DeadlineExceeded):
        await rank(service, RankRequest(candidates=["1"]), within_s=-1.0)
    with pytest.raises(UnknownRanker, match="default"):
        await rank(service, RankRequest(candidates=["1"], ranker="no-such"))
    (resident,) = service.serving.registry.residents()
    assert resident.leases == 0


async def test_scores_that_float64_cannot_tell_apart_are_in_order(service: Toy) -> None:
    """The order is that of the logs, which lie far below the least float64 here."""
    formula = {"groups": [{"factors": [{"task": "click", "weight": 5000}]}]}
    slate = await rank(
        service, RankRequest.model_validate({"candidates": ["1", "2", "3"], "fusion": formula})
    )
    assert len(set(slate.scores.tolist())) == 1
    assert slate.order.tolist() == [2, 1, 0]


async def test_a_request_that_finds_no_room_is_not_encoded(tmp_path: Path) -> None:
    """It is refused before anything in it is read: here a value that no encoder takes."""
    async with toy(tmp_path, max_queued_rows=5, max_candidates=5) as service:
        model = service.models["up"]
        model.free.clear()
        slates = [asyncio.create_task(rank(service, RankRequest(candidates=["1"]))) for _ in range(2)]
        while not model.batcher.pending_rows:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await rank(service, RankRequest(candidates=["1"] * 5, user={"age": "old"}))
        model.free.set()
        await asyncio.gather(*slates)


async def test_a_request_that_cannot_be_in_time_is_not_encoded(service: Toy) -> None:
    """What runs takes longer than it may: refused before anything in it is read, while others wait."""
    model = service.models["up"]
    model.batcher._cost = Cost().after(1, 100.0)
    model.free.clear()
    slate = asyncio.create_task(rank(service, RankRequest(candidates=["1"]), within_s=500))
    while not model.begun.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="raise deadline_ms"):
        await rank(service, RankRequest(candidates=["1"], user={"age": "old"}), within_s=50)
    with pytest.raises(DeadlineExceeded):
        await rank(service, RankRequest(candidates=["1"], user={"age": "old"}), within_s=-1)
    patient = asyncio.create_task(rank(service, RankRequest(candidates=["1"]), within_s=500))
    while not model.batcher.pending_rows:  # noqa: ASYNC110
        await asyncio.sleep(0)
    model.free.set()
    await asyncio.gather(slate, patient)


async def test_what_no_feature_reads_makes_nobody_known(service: Toy) -> None:
    """An unknown user or item counts among the defaults unless it brings something that the model reads."""
    candidates = [
        "1",
        {"id": "1", "features": {"colour": "red"}},
        "no such",
        {"id": "nor this", "features": {"colour": "red"}},
        {"id": "but this", "features": {"duration": 3}},
    ]
    for user, unknown in (({}, 1), ({"colour": "red"}, 1), ({"age": 30}, 0)):
        request = {"user_id": "stranger", "user": user, "candidates": candidates}
        assert (await rank(service, RankRequest.model_validate(request))).defaults == {
            "users": unknown,
            "items": 2,
        }
