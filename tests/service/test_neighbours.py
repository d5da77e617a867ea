"""Requests in one run of the real engine: what breaks one of them leaves the others alone."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from service.batcher import Batcher, BatchRun
from service.bundle.golden import disagreement
from service.bundle.manifest import TOLERANCE
from service.bundle.rows import Columns, Encoded
from service.device import Device
from service.engine import Engine, EngineOptions, Inference
from service.errors import InferenceFailed
from tests.tiny import Tiny, write_tiny
from tests.tiny_features import tiny_requests


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A bundle whose true scores are known."""
    return write_tiny(tmp_path_factory.mktemp("models"), "v1")


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[Engine]:
    """The bundle's engine."""
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, EngineOptions("cpu", max_rows=16))
    yield engine
    engine.close()


def check(tiny: Tiny, encoded: Encoded, inference: Inference) -> None:
    """The request has its true scores."""
    for task, expected in tiny.predict(encoded).items():
        assert disagreement(inference.scores[task], expected) <= TOLERANCE


def poisonous(encoded: Encoded) -> dict[str, Encoded]:
    """The request with an index out of range, which no encoder gives, in each of its arrays."""
    far = Columns(encoded.user.index + np.int32(10**6), encoded.user.value)
    return {
        "user": replace(encoded, user=far),
        "row": replace(encoded, item_row=encoded.item_row + np.int32(10**6)),
        "fresh": replace(
            encoded,
            fresh=Columns(np.full_like(encoded.fresh.index, 10**6), encoded.fresh.value),
        ),
    } if encoded.fresh is not None else {}  # fmt: skip


@pytest.mark.parametrize("what", ["user", "row", "fresh"])
async def test_a_poisonous_request_harms_no_neighbour(tiny: Tiny, engine: Engine, what: str) -> None:
    """It fails alone, and the requests of the same batch get their true scores, fresh items and all."""
    sound = [request.encode(tiny.encoder) for request in tiny_requests()]
    entries = [*sound, poisonous(sound[3])[what], *sound[:2]]
    runs: list[BatchRun] = []
    with ThreadPoolExecutor(1) as executor:
        batcher: Batcher[Encoded, Inference] = Batcher(
            engine.run, len, executor, max_rows=2048, max_entries=8, max_queued_rows=2048, observe=runs.append
        )
        deadline = asyncio.get_running_loop().time() + 30
        answers = await asyncio.gather(
            *(batcher.submit(entry, deadline) for entry in entries), return_exceptions=True
        )
        await batcher.drain()
    assert max(run.entries for run in runs) > 4
    for entry, answer in zip(entries, answers, strict=True):
        if any(entry is own for own in sound):
            assert isinstance(answer, Inference)
            check(tiny, entry, answer)
        else:
            assert isinstance(answer, InferenceFailed)


def test_the_devices_way_gives_the_same_scores(tiny: Tiny, engine: Engine) -> None:
    """A state that is bound, as on a device, and fresh items ranked with their own; here on the processor.

    The bound state is the catalogue's alone, and no run writes to it.
    """
    engine._device = Device(engine._rank, tiny.manifest.outputs(), engine._state, "cpu")
    bound = engine._device._catalogue
    before = {name: value.numpy().copy() for name, value in bound.items()}
    batch = [request.encode(tiny.encoder) for request in tiny_requests()]
    for requests in (batch, *([alone] for alone in batch)):
        for encoded, inference in zip(requests, engine.run(requests), strict=True):
            check(tiny, encoded, inference)
    for name, value in bound.items():
        assert len(value.numpy()) == len(tiny.encoder.items)
        np.testing.assert_array_equal(value.numpy(), before[name])
