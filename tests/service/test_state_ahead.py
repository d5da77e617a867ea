"""State of items that have changed, computed before a request needs it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from service.bundle.rows import Columns, Entities, Items
from service.engine import EngineOptions
from service.ledger import Ledger
from service.model import Model, ModelOptions
from service.state import State
from service.wanted import Wanted
from tests.service.test_state import compute, items, wide_and_narrow
from tests.tiny import write_tiny


def changed_items() -> Items:
    """The items from 10 on are as those from 510 on; but 12 is as ever, and 14 is so in one request alone."""
    rows, ids = np.arange(10, 20, dtype=np.int32), np.arange(1, 11)
    now, ids[4] = items().take(rows + 500), 0
    now.index[2] = 12
    return Items(rows, np.arange(10), Entities(now, now, np.zeros((10, 0), np.int64)), ids, {})


@pytest.mark.parametrize(("mib", "most"), [(2.0, 64), (2.0, 3), (0.5, 64)])
def test_changed_items_are_held_ahead(tmp_path: Path, mib: float, most: int) -> None:
    """By as few runs as may be, and counted as nobody's; those that are as in the catalogue are not."""
    computed: list[Columns] = []

    def noted(columns: Columns) -> Sequence[NDArray[Any]]:
        computed.append(columns)
        return compute(columns)

    changed = changed_items()
    with closing(State(wide_and_narrow(tmp_path), items(), noted, Ledger(int(mib * 2**20)), most)) as state:
        assert (state.resident > 0) == (mib == 2)
        computed.clear()
        state.hold(changed)
        held = np.concatenate([each.index[:, 0] for each in computed])
        assert sorted(held.tolist()) == [510, 511, 513, 515, 516, 517, 518, 519]
        assert len(computed) == -(-8 // most)
        assert set(state.figures().counts.values()) == {0}
        computed.clear()
        columns, own = changed.entities.columns.part(slice(0, 2)), np.arange(2, dtype=np.int32)
        at = state.rows(Wanted(changed.row[:2], columns, own, changed.ids[:2]))
        assert (computed, state.arrays["narrow"][at, 0].tolist()) == ([], [510, 511])


@pytest.mark.parametrize("mib", [0.95, 0.15])
def test_what_others_need_makes_no_room(tmp_path: Path, mib: float) -> None:
    """Of a small pool nothing is taken ahead, resident or not: who needs the items computes them."""
    runs: list[Columns] = []

    def noted(columns: Columns) -> Sequence[NDArray[Any]]:
        runs.append(columns)
        return compute(columns)

    with closing(State(wide_and_narrow(tmp_path), items(), noted, Ledger(int(mib * 2**20)), 64)) as state:
        assert (state.resident > 0) == (mib == 0.95)
        runs.clear()
        state.hold(changed_items())
        assert not runs


def test_what_cannot_be_computed_ahead_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, and nothing else fails for it: the requests that need it find out themselves."""
    write_tiny(tmp_path, "v1")
    row, id_ = np.ones(1, np.int32), np.ones(1, np.int64)
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(tmp_path / "v1", ModelOptions(EngineOptions(provider="cpu")), executor)

        def fail(*_: object) -> None:
            raise ort_errors.Fail("no memory")

        monkeypatch.setattr(State, "hold", fail)
        model.hold(Items(row, np.zeros(1, np.int64), model.encoder.revised(row, {}), id_, {}))
        model.close()
    (record,) = [record for record in caplog.records if record.name == "service.model"]
    assert "v1: the state of changed items could not be computed ahead" in record.getMessage()
    assert record.exc_info is not None
