"""State of items that have changed, computed before a request needs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle.rows import Columns, Entities, Items
from service.ledger import Ledger
from service.state import State
from service.wanted import Wanted
from tests.service.test_state import compute, items, wide_and_narrow


@pytest.mark.parametrize(("mib", "most"), [(2.0, 64), (2.0, 3), (0.5, 64)])
def test_changed_items_are_held_ahead(tmp_path: Path, mib: float, most: int) -> None:
    """By as few runs as may be, and counted as nobody's; those that are as in the catalogue are not."""
    computed: list[Columns] = []

    def noted(columns: Columns) -> Sequence[NDArray[Any]]:
        computed.append(columns)
        return compute(columns)

    # The items from 10 on are now as those from 510 on; but 12 is as ever, and 14 is so in one request alone.
    rows, ids = np.arange(10, 20, dtype=np.int32), np.arange(1, 11)
    now, ids[4] = items().take(rows + 500), 0
    now.index[2] = 12
    none = np.zeros((10, 0), np.int64)
    changed = Items(rows, np.arange(10), Entities(now, now, none), ids, {})
    with closing(State(wide_and_narrow(tmp_path), items(), noted, Ledger(int(mib * 2**20)), most)) as state:
        assert (state.resident > 0) == (mib == 2)
        computed.clear()
        state.hold(changed)
        held = np.concatenate([each.index[:, 0] for each in computed])
        assert sorted(held.tolist()) == [row + 500 for row in rows.tolist() if row not in {12, 14}]
        assert len(computed) == -(-8 // most)
        assert set(state.figures().counts.values()) == {0}
        computed.clear()
        at = state.rows(Wanted(rows[:2], now.take(rows[:2] - 10), np.arange(2, dtype=np.int32), ids[:2]))
        assert (computed, state.arrays["narrow"][at, 0].tolist()) == ([], [510, 511])
