"""When requests are due, and what they ask."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.loadtest.errors import LoadTestError
from service.loadtest.plan import Arrivals, Load, Mix, Requests, distinct, ids

PARTS = st.integers(1, 5)
RATES = st.floats(0.5, 500)
DURATIONS = st.floats(0.2, 5)


@given(rate=RATES, duration=DURATIONS, parts=PARTS)
def test_constant_arrivals_of_all_generators_are_one_grid(rate: float, duration: float, parts: int) -> None:
    """However many they are, request k is due at k / rate, until the end."""
    load = Load(rate, duration, Arrivals.CONSTANT)
    due = np.sort(np.concatenate([load.due(part, parts) for part in range(parts)]))
    assert np.allclose(due, np.arange(len(due)) / rate)
    assert len(due) == np.ceil(rate * duration - 1e-9)


@given(rate=RATES, duration=DURATIONS, parts=PARTS, seed=st.integers(0, 2**32 - 1))
def test_poisson_arrivals_ascend_within_the_duration(
    rate: float, duration: float, parts: int, seed: int
) -> None:
    """Of every generator, the same for the same seed, and others than its neighbour's."""
    load = Load(rate, duration, seed=seed)
    for part in range(parts):
        due = load.due(part, parts)
        assert np.all(np.diff(due) >= 0)
        assert np.all((due >= 0) & (due < duration))
        assert np.array_equal(due, load.due(part, parts))
        assert not len(due) or not np.array_equal(due, load.due(part + 1, parts))


@pytest.mark.parametrize("parts", [1, 4])
def test_poisson_arrivals_have_the_rate_and_the_distances(parts: int) -> None:
    """Of all generators together: the mean of the distances is 1 / rate, and so is their deviation."""
    load = Load(200, 200.0, seed=3)
    gaps = np.diff(np.sort(np.concatenate([load.due(part, parts) for part in range(parts)])))
    assert np.isclose(gaps.mean(), 1 / 200, rtol=0.03)
    assert np.isclose(gaps.std(), 1 / 200, rtol=0.03)


def test_windows_are_equal_parts() -> None:
    """The last one holds the end."""
    load = Load(1, 9.0, windows=3)
    assert [load.window(at) for at in (0.0, 2.9, 3.1, 8.9, 9.0)] == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("200", Mix((200,), (1.0,))),
        ("100:0.5,500:0.5", Mix((100, 500), (0.5, 0.5))),
        ("100:3,500", Mix((100, 500), (0.75, 0.25))),
    ],
)
def test_a_mix_is_read(text: str, mix: Mix) -> None:
    """Shares are made to add up to one."""
    assert Mix.parse(text) == mix


@pytest.mark.parametrize("text", ["", "many", "0", "-5", "10:", "10:0", "10:nan", "10:inf", "10:0.5;20"])
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    """With how to write one."""
    with pytest.raises(LoadTestError, match=r"100:0\.5,500:0\.5"):
        Mix.parse(text)


def test_ids_are_counted_or_read(tmp_path: Path) -> None:
    """From "0" on, or a line each, without blank lines and repeats."""
    file = tmp_path / "ids.txt"
    file.write_text("b\n\na\nb\n 7 \n")
    assert ids("3") == ["0", "1", "2"]
    assert ids(str(file)) == ["b", "a", "7"]
    with pytest.raises(LoadTestError, match="neither a number"):
        ids(str(tmp_path / "nothing"))


@given(
    items=st.integers(1, 60),
    share=st.floats(0.01, 1),
    zipf=st.floats(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_candidates_are_distinct(items: int, share: float, zipf: float, seed: int) -> None:
    """However steep the popularity, and though all there are be asked for."""
    size = max(1, int(items * share))
    weights = np.arange(1, items + 1, dtype=np.float64) ** -zipf
    drawn = distinct(weights, np.cumsum(weights / weights.sum()), size, np.random.default_rng(seed))
    assert len(set(drawn.tolist())) == len(drawn) == size
    assert set(drawn.tolist()) <= set(range(items))


def test_candidates_are_drawn_by_popularity() -> None:
    """As one after another without replacement: against a draw written out, item by item."""
    random = np.random.default_rng(0)
    weights = np.arange(1, 7, dtype=np.float64) ** -1.5
    cumulative = np.cumsum(weights / weights.sum())
    found, wanted = np.zeros(6), np.zeros(6)
    for _ in range(6_000):
        found[distinct(weights, cumulative, 3, random)] += 1
        left = list(range(6))
        for _ in range(3):
            share = weights[left] / weights[left].sum()
            wanted[left.pop(int(random.choice(len(left), p=share)))] += 1
    assert np.allclose(found / 6_000, wanted / 6_000, atol=0.03)


def test_bodies_are_requests_to_rank() -> None:
    """With what was asked for and no more, sizes by their shares; a seed and a generator give the same."""
    requests = Requests(ids("5"), ids("300"), Mix((10, 20), (0.25, 0.75)), limit=7, deadline_ms=80.0)
    bodies = list(islice(requests.bodies(seed=1), 400))
    read = [orjson.loads(body) for body in bodies]
    assert all(one.keys() == {"user_id", "candidates", "limit", "deadline_ms"} for one in read)
    assert {one["user_id"] for one in read} == set(ids("5"))
    sizes = [len(one["candidates"]) for one in read]
    assert set(sizes) == {10, 20}
    assert 0.65 < sizes.count(20) / 400 < 0.85
    assert bodies == list(islice(requests.bodies(seed=1), 400))
    assert bodies[:5] != list(islice(requests.bodies(seed=1, part=1), 5))
    plain = orjson.loads(
        next(Requests(["u"], ids("9"), Mix((2,), (1.0,)), ranker="feed", tasks=True).bodies(0))
    )
    assert (plain["ranker"], plain["tasks"]) == ("feed", True)


def test_more_candidates_than_items_are_refused() -> None:
    """They could not differ; and without ids there is nothing to ask."""
    with pytest.raises(LoadTestError, match="--items"):
        Requests(["u"], ids("199")).check()
    with pytest.raises(LoadTestError, match="no ids"):
        Requests([], ids("200")).check()
    Requests(["u"], ids("200")).check()
