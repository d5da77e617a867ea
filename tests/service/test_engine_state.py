"""Every score is `flat.onnx`'s, whatever is held of the items' state, and however a run is cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.budget import KEPT_BYTES, KNOWN_BYTES, RESERVE
from service.bundle.errors import BundleError
from service.bundle.manifest import TOLERANCE
from service.bundle.rows import Encoded
from service.engine import Engine, EngineOptions, open_session
from service.errors import InferenceFailed
from service.ledger import Ledger
from tests.tiny import Tiny, write_tiny
from tests.tiny_features import ITEMS

SCRATCH = 16


class World:
    """A bundle, its flat graph, and what changed items are called."""

    def __init__(self, models: Path, *, half: bool) -> None:
        self.tiny: Tiny = write_tiny(models, "half" if half else "v1", half=half)
        self.tolerance = 2e-3 if half else TOLERANCE
        self._flat: ort.InferenceSession = open_session(self.tiny.folder / "flat.onnx", EngineOptions("cpu"))
        self._numbers: dict[tuple[bytes, bytes], int] = {}

    def engine(self, pool: int | None, chunk_rows: int = 256) -> Engine:
        """With a table of so many rows beside its scratch rows; resident for None."""
        half = self.tiny.manifest.state[0].dtype == "float16"
        row = sum(spec.shape[1] for spec in self.tiny.manifest.state) * (2 if half else 4)
        room = KNOWN_BYTES * (ITEMS + 1) + row * SCRATCH + (row + KEPT_BYTES) * (pool or 0)
        ledger = Ledger(2**30 if pool is None else room + room // (RESERVE - 1) + 1)
        options = EngineOptions("cpu", max_rows=SCRATCH, chunk_rows=chunk_rows)
        engine = Engine(self.tiny.folder, self.tiny.manifest, self.tiny.encoder.items, options, ledger)
        assert (engine.state.mode == "resident") == (pool is None)
        return engine

    def request(
        self, user: int, ids: list[int], stored: dict[int, float], brought: dict[int, float]
    ) -> Encoded:
        """Candidates, of which the store has changed some lengths, and the request brings others."""
        lengths = {at: {"length": length} for at, length in (stored | brought).items() if at < len(ids)}
        encoded = self.tiny.encoder.request(
            str(user), {}, {"tab": "feed", "hour": user}, [str(item) for item in ids], lengths
        )
        numbers = [
            0
            if position in brought or encoded.fresh is None
            else self._number(encoded.fresh.take(np.array([k])))
            for k, position in enumerate(encoded.fresh_at.tolist())
        ]
        return replace(encoded, fresh_id=np.array(numbers, np.int64))

    def check(self, engine: Engine, batch: list[Encoded]) -> None:
        """Every request of the batch has the scores of the flat graph."""
        for encoded, inference in zip(batch, engine.run(batch), strict=True):
            for task, expected in self._expected(encoded).items():
                apart = np.abs(inference.scores[task] - expected) / np.maximum(1, np.abs(expected))
                assert apart.max() <= self.tolerance, (task, engine.state)

    def _number(self, columns: Any) -> int:
        """The same for the same columns, and for no others."""
        key = columns.index.tobytes(), columns.value.tobytes()
        return self._numbers.setdefault(key, len(self._numbers) + 1)

    def _expected(self, encoded: Encoded) -> dict[str, NDArray[np.float32]]:
        items = self.tiny.encoder.items.take(encoded.item_row)
        if encoded.fresh is not None:
            items.put(encoded.fresh_at, encoded.fresh)
        users = encoded.user.take(np.zeros(len(encoded), np.int32))
        sides = {"user": users, "item": items, "cross": encoded.cross}
        feeds: dict[str, Any] = {f"{side}_index": columns.index for side, columns in sides.items()}
        feeds |= {f"{side}_value": columns.value for side, columns in sides.items()}
        names = self.tiny.manifest.outputs()
        return dict(zip(names, self._flat.run(names, feeds), strict=True))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """State in float32."""
    return World(tmp_path_factory.mktemp("models"), half=False)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> World:
    """State in float16."""
    return World(tmp_path_factory.mktemp("models"), half=True)


@pytest.fixture
def table(world: World) -> Iterator[Engine]:
    """An engine that holds 64 items at most."""
    with closing(world.engine(64)) as engine:
        yield engine


def test_two_requests_that_evict_each_other_on_a_table_of_64_rows(world: World, table: Engine) -> None:
    """In turn, and both in one run: neither is scored with the other's items."""
    first = world.request(1, list(range(60)), {3: 9.5}, {})
    second = world.request(2, list(range(100, 160)), {}, {5: 2.5})
    for batch in ([first], [second]) * 3 + ([first, second], [second, first]) * 2:
        world.check(table, batch)
    assert table.state.counts["evicted"] > 0
    assert table.state.rows <= 64


def test_what_is_held_is_not_computed_again(world: World, table: Engine) -> None:
    """Changed items by their number; one that the request changes always is."""
    request = world.request(1, [1, 2, 3, 4], {1: 7.5}, {2: 8.5})
    world.check(table, [request])
    assert table.state.counts == {"hit": 0, "miss": 4, "evicted": 0}
    world.check(table, [request])
    assert table.state.counts == {"hit": 3, "miss": 5, "evicted": 0}


def test_an_item_that_changes_again_has_new_scores(world: World) -> None:
    """And the old ones where it changes back, resident or on demand."""
    for pool in (None, 64):
        with closing(world.engine(pool)) as engine:
            for length in (1.5, 60.0, 1.5, 200.0):
                world.check(engine, [world.request(3, [7, 8, 9], {1: length}, {})])


def test_a_run_that_breaks_leaves_no_item_behind(world: World, table: Engine) -> None:
    """Changed columns that no encoder gives: the number is as unknown afterwards as before."""
    sound = world.request(3, [7, 8, 9], {1: 4.5}, {})
    assert sound.fresh is not None
    broken = replace(sound, fresh=replace(sound.fresh, index=sound.fresh.index + np.int32(10**6)))
    for _ in range(2):
        with pytest.raises(InferenceFailed):
            table.run([broken])
    world.check(table, [sound])


def test_a_closed_engine_takes_nothing(world: World) -> None:
    """Neither does one that could not be opened."""
    ledger, tiny = Ledger(2**26), world.tiny
    options = EngineOptions("cpu", max_rows=SCRATCH)
    engine = Engine(tiny.folder, tiny.manifest, tiny.encoder.items, options, ledger)
    assert ledger.taken() == engine.state.bytes > 0
    engine.close()
    assert ledger.taken() == 0
    none = replace(tiny.encoder.items, index=tiny.encoder.items.index + np.int32(10**6))
    with pytest.raises(BundleError, match="the items' state cannot be computed"):
        Engine(tiny.folder, tiny.manifest, none, options, ledger)
    assert ledger.taken() == 0


def test_a_device_that_has_no_room_takes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the budget: what was open already is closed."""

    def full(*_: object) -> None:
        raise BundleError("the device is full")

    monkeypatch.setattr(Engine, "on_cpu", False)
    monkeypatch.setattr("service.engine.Device", full)
    ledger, tiny = Ledger(2**26), world.tiny
    with pytest.raises(BundleError, match="the device is full"):
        Engine(tiny.folder, tiny.manifest, tiny.encoder.items, EngineOptions("cpu"), ledger)
    assert ledger.taken() == 0


lengths = st.dictionaries(st.integers(0, 39), st.sampled_from([1.5, 3.0, 60.0, 400.0]), max_size=5)
requests = st.tuples(
    st.integers(0, 23), st.lists(st.integers(0, ITEMS + 2), min_size=1, max_size=40), lengths, lengths
)
batches = st.lists(st.lists(requests, min_size=1, max_size=3), min_size=1, max_size=12)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, pool=st.one_of(st.none(), st.integers(0, 64)), chunk_rows=st.integers(1, 20))
def test_no_score_depends_on_what_is_held(
    world: World, batches: list[list[Any]], pool: int | None, chunk_rows: int
) -> None:
    """Any batches in any order, on any table, cut anywhere."""
    with closing(world.engine(pool, chunk_rows)) as engine:
        for batch in batches:
            world.check(engine, [world.request(*request) for request in batch])


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, pool=st.one_of(st.none(), st.integers(0, 32)))
def test_state_in_float16_gives_scores_close_by(
    half: World, batches: list[list[Any]], pool: int | None
) -> None:
    """Within its own tolerance, on any table."""
    with closing(half.engine(pool)) as engine:
        assert engine.state.dtype == "float16"
        for batch in batches:
            half.check(engine, [half.request(*request) for request in batch])
