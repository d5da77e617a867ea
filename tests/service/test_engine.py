"""The engine: the state of all items, fresh ones beside them, and several requests in one run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import engine as engine_module
from service import tally
from service.bundle.errors import BundleError
from service.bundle.golden import agree
from service.bundle.graphs import RANK_CPU
from service.bundle.rows import Encoded
from service.cores import Cores
from service.device import Device, padded
from service.engine import Engine, EngineOptions
from service.errors import InferenceFailed
from service.state import FILL_ROWS
from tests.tiny import Tiny, write_tiny
from tests.tiny_features import CROSS, ITEMS, USERS

CPU = EngineOptions(provider="cpu", max_rows=16)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A bundle whose true scores are known."""
    return write_tiny(tmp_path_factory.mktemp("models"), "v1")


@pytest.fixture(scope="module")
def engine(tiny: Tiny) -> Iterator[Engine]:
    """The bundle's engine, sixteen candidates a run."""
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, CPU)
    yield engine
    engine.close()


def request(tiny: Tiny, *ids: str, user: str | None = "3", fresh: bool = False) -> Encoded:
    """Candidates in the evening; with `fresh`, the first of them brings a length and tags of its own."""
    inline: dict[int, dict[str, Any]] = (
        {0: {"length": 3.5, "tags": ["t1", "t2"], "author": "a3"}} if fresh else {}
    )
    return tiny.encoder.request(user, {}, {"tab": "feed", "hour": 20}, ids, inline)


def check(tiny: Tiny, engine: Engine, batch: list[Encoded]) -> None:
    """Every request of the batch gets its true scores."""
    for encoded, inference in zip(batch, engine.run(batch), strict=True):
        expected = tiny.predict(encoded)
        assert list(inference.scores) == list(tiny.manifest.outputs())
        for task, scores in inference.scores.items():
            assert scores.dtype == np.float32
            assert scores.shape == (len(encoded),)
            assert agree(scores, expected[task]), task


def test_known_items_come_from_the_state(tiny: Tiny, engine: Engine) -> None:
    """Every item of the catalogue, in any order and more than once; none is fresh."""
    ids = [str(item) for item in np.random.default_rng(0).integers(0, ITEMS, 3 * ITEMS)]
    encoded = request(tiny, *ids)
    assert encoded.fresh is None
    check(tiny, engine, [encoded])


def test_one_candidate_is_a_request(tiny: Tiny, engine: Engine) -> None:
    """No axis of length one is taken for a constant."""
    check(tiny, engine, [request(tiny, "7")])


def test_unknown_items_have_the_unknown_items_state(tiny: Tiny, engine: Engine) -> None:
    """Beside known ones; without features of their own they all score alike."""
    encoded = request(tiny, "1", "no such item", "2", "nor this", user=None)
    assert encoded.fresh is None
    check(tiny, engine, [encoded])


def test_fresh_items_are_computed_on_the_way(tiny: Tiny, engine: Engine) -> None:
    """What a request brings changes its own candidate, and no item of the catalogue."""
    before = engine.run([request(tiny, "5", "6")])[0].scores
    encoded = request(tiny, "5", "6", fresh=True)
    assert encoded.fresh_at.tolist() == [0]
    check(tiny, engine, [encoded])
    after = engine.run([request(tiny, "5", "6")])[0].scores
    changed = engine.run([encoded])[0].scores
    for task in before:
        np.testing.assert_array_equal(before[task], after[task])
        assert changed[task][0] != before[task][0]


def test_fresh_items_of_several_requests_do_not_meet(tiny: Tiny, engine: Engine) -> None:
    """Each is found at its own place, whichever requests bring some and which do not."""
    batch = [
        request(tiny, "5", "6", fresh=True, user="1"),
        request(tiny, "5", "6", user="2"),
        request(tiny, "9", fresh=True, user="3"),
        request(tiny, "1", "2", "3", fresh=True, user=None),
    ]
    check(tiny, engine, batch)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from([None, "nobody", *map(str, range(USERS))]),
            st.lists(st.integers(0, ITEMS + 3), min_size=1, max_size=30),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    shared_rows=st.integers(0, 30),
)
def test_a_batch_is_as_its_requests_alone(
    tiny: Tiny, engine: Engine, requests: list[tuple[str | None, list[int], bool]], shared_rows: int
) -> None:
    """Whatever requests share a run: other users, other lengths, fresh items or none."""
    engine.share(shared_rows)
    check(
        tiny, engine, [request(tiny, *map(str, ids), user=user, fresh=fresh) for user, ids, fresh in requests]
    )


def test_requests_share_runs_as_they_are_told_to(
    tiny: Tiny, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run for the small ones side by side, and one for each of the others."""
    runs, rank = list[int](), engine._rank_rows

    def counted(feeds: dict[str, Any]) -> list[Any]:
        runs.append(len(feeds["item_row"]))
        return rank(feeds)

    monkeypatch.setattr(engine, "_rank_rows", counted)
    batch = [request(tiny, *map(str, range(n)), user=str(n)) for n in (1, 2, 5, 3)]
    for rows, expected in ((0, [1, 2, 5, 3]), (2, [3, 5, 3]), (5, [11])):
        engine.share(rows)
        runs.clear()
        engine.run(batch)
        assert runs == expected


def test_more_items_than_a_run_takes_are_ranked_in_parts(tiny: Tiny, engine: Engine) -> None:
    """Fresh ones at both sides of every seam, in one request and in several."""
    ids, inline = (
        [str(item) for item in range(50)],
        {at: {"length": 100.0 + at} for at in (0, 15, 16, 32, 49)},
    )
    long = tiny.encoder.request("3", {}, {}, ids, inline)
    check(tiny, engine, [long])
    check(tiny, engine, [request(tiny, "1", fresh=True, user="2"), long, request(tiny, *ids), long])


def test_a_run_tells_how_long_its_stages_took(tiny: Tiny, engine: Engine) -> None:
    """In milliseconds, none below zero; the same for all requests of the run."""
    first, second = engine.run([request(tiny, "1"), request(tiny, "2")])
    assert min(first.user_ms, first.item_ms, first.rank_ms) >= 0
    assert (first.user_ms, first.item_ms, first.rank_ms) == (second.user_ms, second.item_ms, second.rank_ms)


def test_a_catalogue_of_several_fills_has_no_seam(tmp_path: Path) -> None:
    """State is filled in pieces; items at both sides of every border are right, the last one too."""
    tiny = write_tiny(tmp_path, "v1")
    copies = tiny.encoder.items.take(np.arange(2 * FILL_ROWS + 3) % (ITEMS + 1))
    engine = Engine(tiny.folder, tiny.manifest, copies, CPU)
    for row in (0, FILL_ROWS - 1, FILL_ROWS, 2 * FILL_ROWS - 1, 2 * FILL_ROWS, 2 * FILL_ROWS + 2):
        encoded = request(tiny, str(row % (ITEMS + 1) - 1))
        there = replace(encoded, item_row=np.array([row], np.int32), fresh=None)
        expected = tiny.predict(encoded)
        for task, scores in engine.run([there])[0].scores.items():
            assert agree(scores, expected[task])
    engine.close()


def test_a_bundle_without_crosses_runs(tmp_path: Path) -> None:
    """Its rank.onnx has no cross inputs."""
    tiny = write_tiny(tmp_path, "v1", leave_out=CROSS)
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, CPU)
    check(tiny, engine, [request(tiny, "1", "2", fresh=True), request(tiny, "3")])
    engine.close()


def test_a_request_that_breaks_the_model_harms_no_other(tiny: Tiny, engine: Engine) -> None:
    """An index that no encoder gives is this request's error, and the next run is as ever."""
    encoded = request(tiny, "1", "2")
    poison = replace(encoded, item_row=np.array([10**6, 0], np.int32), fresh=None)
    with pytest.raises(InferenceFailed) as caught:
        engine.run([poison])
    assert "out of bounds" in str(caught.value.__cause__)
    check(tiny, engine, [encoded])


def test_a_cpu_ranks_by_its_own_graph_where_there_is_one(tmp_path: Path) -> None:
    """And by nothing else, broken or not: what was exported for it is what was proven."""
    tiny = write_tiny(tmp_path, "v1")
    (tiny.folder / RANK_CPU).write_bytes((tiny.folder / "rank.onnx").read_bytes())
    (tiny.folder / "rank.onnx").write_bytes(b"not read")
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, CPU)
    check(tiny, engine, [request(tiny, "1", "2", fresh=True)])
    engine.close()
    (tiny.folder / RANK_CPU).write_bytes(b"read")
    with pytest.raises(BundleError, match=f"{RANK_CPU} cannot be read"):
        Engine(tiny.folder, tiny.manifest, tiny.encoder.items, CPU)


@pytest.mark.parametrize("chunk_rows", [1, 3, 256])
def test_rows_spread_over_lent_cores_get_the_same_scores(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    """Of one request and of several, fresh items among them, however they are dealt to threads."""
    monkeypatch.setattr(engine_module, "LENT_ROWS", 2)
    options = replace(CPU, chunk_rows=chunk_rows)
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, options)
    fd = tally.make(3)
    cores = Cores(tally.Tally(fd), 0, 3)
    batch = [
        request(tiny, *(str(at) for at in range(n % ITEMS)), user=str(n), fresh=n > 1) for n in (1, 2, 7)
    ]
    for some in ([batch[2]], batch):
        for shared_rows in (0, 3, ITEMS):
            engine.share(shared_rows)
            for encoded, inference in zip(some, engine.run(some, cores), strict=True):
                expected = tiny.predict(encoded)
                for task, scores in inference.scores.items():
                    assert agree(scores, expected[task]), task
    engine.close()
    os.close(fd)


def has_device() -> bool:
    """Is there a CUDA device that onnxruntime can use?"""
    return "CUDAExecutionProvider" in ort.get_available_providers() and Path("/dev/nvidiactl").exists()


def test_auto_takes_the_cpu_where_there_is_no_device(tiny: Tiny) -> None:
    """And the provider in use is told."""
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, EngineOptions(provider="auto"))
    assert engine.provider == ("CUDAExecutionProvider" if has_device() else "CPUExecutionProvider")
    engine.close()


def test_state_on_a_device_ranks_the_same(tiny: Tiny) -> None:
    """The way that a run takes there, with the processor for a device: fresh items, known ones, both."""
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, CPU)
    engine._device = Device(engine._rank, tiny.manifest.outputs(), engine._state, "cpu")
    check(tiny, engine, [request(tiny, "5", "6")])
    check(tiny, engine, [request(tiny, "5", "6", fresh=True)])
    check(tiny, engine, [request(tiny, "9", fresh=True)])
    check(
        tiny,
        engine,
        [
            request(tiny, "5", "6", fresh=True, user="1"),
            request(tiny, "7", "8", user=None),
            request(tiny, "1", "2", "3", fresh=True, user="2"),
        ],
    )
    engine.close()


def test_a_device_meets_few_shapes() -> None:
    """Rows are filled up to a power of two; the one row of a user that all share stays one."""
    feeds: dict[str, Any] = {
        "item_row": np.ones(5, np.int32),
        "cross": np.ones((5, 2), np.float32),
        "user": np.ones((1, 3)),
    }
    found = padded(feeds)
    assert {name: array.shape for name, array in found.items()} == {
        "item_row": (8,), "cross": (8, 2), "user": (1, 3)
    }  # fmt: skip
    assert (found["cross"].sum(), found["item_row"][5:].tolist()) == (10, [0, 0, 0])
    assert len({len(padded({"item_row": np.ones(n)})["item_row"]) for n in range(1, 2049)}) == 12


@pytest.mark.gpu
@pytest.mark.skipif(not has_device(), reason="no CUDA device here")
def test_a_device_gives_the_same_scores(tiny: Tiny) -> None:
    """With the state on the device, fresh items, and several requests a run."""
    cuda = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, EngineOptions(provider="cuda", max_rows=16))
    batch = [
        request(tiny, "5", "6", fresh=True),
        request(tiny, "7", user=None),
        request(tiny, "8", fresh=True),
    ]
    for encoded, inference in zip(batch * 2, cuda.run(batch) + cuda.run(batch), strict=True):
        for task, expected in tiny.predict(encoded).items():
            assert agree(inference.scores[task], expected)
    cuda.close()
