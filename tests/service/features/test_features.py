"""The store as the service has it: whose rows hold, how long a request waits, and what is not kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from service.batcher import Batcher
from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.bundle.rows import Items
from service.engine import EngineOptions
from service.errors import Forbidden, StoreFailed
from service.features.brought import Brought
from service.features.features import FeatureOptions, Features
from service.features.memory import MemoryFeatureStore
from service.features.renewal import Renewed, told_nobody
from service.features.store import FeatureStore, Row, RowKey
from service.model import Model, ModelOptions
from service.telemetry import Telemetry
from tests.service.features.merged import told_lengths
from tests.service.features.stores import NOW_MS, HeldStore
from tests.service.features.test_lookup import ENCODER, asked
from tests.tiny import write_tiny

LONG_S = 30.0


@asynccontextmanager
async def features(
    store: FeatureStore,
    *,
    timeout_s: float = LONG_S,
    ttl_s: float = 60,
    shared: bool = True,
    alone: bool = True,
    renewed: Renewed = told_nobody,
) -> AsyncIterator[Features]:
    """Running features."""
    options = FeatureOptions(timeout_s=timeout_s, ttl_s=ttl_s)
    found = Features(store, options, Telemetry(), shared=shared, alone=alone, renewed=renewed)
    await found.open()
    await asyncio.sleep(0)  # now it hears of changes
    try:
        yield found
    finally:
        await found.close()


async def completed(
    found: Features, brought: Brought, *, within_s: float = 2 * LONG_S
) -> tuple[Brought, tuple[str, ...]]:
    """A request over the store's rows, and the stores it did without."""
    return await found.complete(ENCODER, brought, asyncio.get_running_loop().time() + within_s)


async def test_what_is_put_holds_at_once() -> None:
    """For the worker that wrote it, though it has the old row near."""
    async with features(MemoryFeatureStore()) as found:
        for length in (77, 88):
            written = await found.put({("item", "0"): {"length": length}, ("item", "1"): {}})
            assert written.rows == 2
            known, degraded = await completed(found, asked(["0", "1"]))
            assert (told_lengths(known), degraded) == ({0: length}, ())


async def test_one_of_several_workers_makes_no_request_wait_for_what_is_put() -> None:
    """Not even its own: who asks next may come to another one. It ranks with the rows soon all the same."""
    store = HeldStore({("item", "0"): {"length": 77}})
    async with features(store, alone=False) as found:
        await completed(found, asked(["0"]))
        await found.put({("item", "0"): {"length": 88}})
        store.free.clear()  # who asks the store now waits
        with pytest.raises(StopIteration) as returned:
            completed(found, asked(["0"])).send(None)
        assert told_lengths(returned.value.value[0]) == {0: 77}
        async with asyncio.timeout(LONG_S):
            while told_lengths((await completed(found, asked(["0"])))[0]) != {0: 88}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_rows_are_of_the_time_that_the_store_says() -> None:
    """One clock for all who write, or a host whose own is ahead would win over all others."""
    store = HeldStore()
    async with features(store) as found:
        written = await found.put({("item", "0"): {"length": 77}})
    assert (written.stamp_ms, store.rows["item", "0"]) == (NOW_MS, Row(NOW_MS, {"length": 77}))


async def test_an_empty_memory_is_not_asked() -> None:
    """A request comes back as it went, and nothing was awaited."""
    async with features(MemoryFeatureStore()) as found:
        brought = asked(["0", "1"])
        call = completed(found, brought)
        with pytest.raises(StopIteration) as returned:
            call.send(None)
        assert returned.value.value == (brought, ())


async def test_what_is_near_is_not_waited_for() -> None:
    """Nor does the event loop turn to anything else."""
    async with features(HeldStore()) as found:
        await completed(found, asked(["0", "1"]))
        with pytest.raises(StopIteration):
            completed(found, asked(["1", "0"])).send(None)


@pytest.mark.parametrize(("timeout_s", "within_s"), [(0.0, LONG_S), (LONG_S, 0.02), (LONG_S, -1.0)])
async def test_no_request_waits_longer_than_it_may(timeout_s: float, within_s: float) -> None:
    """Not for a store that hangs, and not beyond half of what its deadline leaves."""
    store = HeldStore({("item", "0"): {"length": 77}})
    store.free.clear()
    async with features(store, timeout_s=timeout_s) as found, asyncio.timeout(LONG_S / 2):
        known, degraded = await completed(found, asked(["0"]), within_s=within_s)
        assert (known.inline, degraded) == ({}, ("held",))


async def test_workers_that_share_no_store_take_no_rows() -> None:
    """Another would rank without them; the reason says what to do."""
    async with features(MemoryFeatureStore(), shared=False) as found:
        with pytest.raises(Forbidden, match="--redis"):
            await found.put({("item", "0"): {}})


@pytest.mark.parametrize("alone", [True, False])
async def test_a_write_that_fails_is_an_error(alone: bool) -> None:
    """And what was near of these rows is forgotten by a lone worker: some may have been written.

    Of several, each forgets what it is told of, by whoever wrote it.
    """
    store = HeldStore({("item", "0"): {"length": 77}})
    async with features(store, alone=alone) as found:
        await completed(found, asked(["0"]))
        store.failing = True
        with pytest.raises(StoreFailed):
            await found.put({("item", "0"): {"length": 88}})
        known, degraded = await completed(found, asked(["0"]))
        assert (told_lengths(known), degraded) == (({}, ("held",)) if alone else ({0: 77}, ()))


async def test_state_is_never_built_of_what_a_request_got(tmp_path: Path) -> None:
    """Rows of the store, and degraded answers, leave the kept state of the items as it was loaded.

    A score while the store holds a row differs; without the row, degraded or not, it is the first again.
    """
    tiny = write_tiny(tmp_path, "v1")
    stored: Mapping[RowKey, Mapping[str, Value]] = {
        ("item", "3"): {"length": 500, "author": "a2", "tags": ["t1"]}
    }
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(tiny.folder, ModelOptions(EngineOptions(provider="cpu")), executor)
        store = HeldStore()
        async with features(store, ttl_s=1e-9) as found:

            async def scores() -> tuple[np.ndarray, tuple[str, ...]]:
                deadline = asyncio.get_running_loop().time() + LONG_S
                known, degraded = await found.complete(model.encoder, asked(["1", "3", "new"]), deadline)
                encoded = known.encode(model.encoder)
                inference = await model.batcher.submit(encoded, deadline)
                for task, expected in tiny.predict(encoded).items():
                    assert inference.scores[task] == pytest.approx(expected, rel=1e-5)
                return inference.scores["click"], degraded

            before, _ = await scores()
            await found.put(stored)
            within, _ = await scores()
            assert within[1] != pytest.approx(before[1], rel=1e-5)
            assert within[[0, 2]] == pytest.approx(before[[0, 2]], rel=1e-5)
            store.failing = True
            while_failing, degraded = await scores()
            assert degraded == ("held",)
            assert while_failing == pytest.approx(before, rel=1e-5)
            store.failing = False
            after, degraded = await scores()
            assert degraded == ()
            assert after == pytest.approx(within, rel=1e-5)
        await model.drain()
        model.close()


async def test_state_of_what_was_looked_up_anew_is_there(tmp_path: Path) -> None:
    """No request computes it, unless the engine was at work just then; the scores are the same either way."""
    write_tiny(tmp_path, "v1")
    options = ModelOptions(EngineOptions(provider="cpu"))
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(tmp_path / "v1", options, executor)
        store, renewed = HeldStore(), asyncio.Event()

        def hold(encoder: Encoder, items: Items) -> None:
            assert encoder is model.encoder
            model.hold(items)
            renewed.set()

        async with features(store, alone=False, renewed=hold) as found:

            async def ranked() -> np.ndarray:
                deadline = asyncio.get_running_loop().time() + LONG_S
                known, _ = await found.complete(model.encoder, asked(["1", "3"]), deadline)
                model.engine.count_anew()
                return (await model.batcher.submit(known.encode(model.encoder), deadline)).scores["click"]

            async def after_change(length: int) -> np.ndarray:
                renewed.clear()
                await found.put({("item", "3"): {"length": length, "author": "a2"}})
                await asyncio.wait_for(renewed.wait(), LONG_S)
                return await ranked()

            await ranked()
            scores = await after_change(500)
            assert (model.state.counts["miss"], model.batcher.running) == (0, False)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Batcher, "running", True)
                other = await after_change(20)
            assert model.state.counts["miss"] == 1
            assert other[0] == pytest.approx(scores[0], rel=1e-5)
            assert other[1] != pytest.approx(scores[1], rel=1e-5)
            assert await after_change(500) == pytest.approx(scores, rel=1e-5)
        await model.drain()
        model.close()
