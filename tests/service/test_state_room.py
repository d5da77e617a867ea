"""The room that a version's state has: it grows off the engine's thread, and says when it was crowded out."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from service.budget import KEPT_BYTES
from service.bundle.manifest import Manifest
from service.ledger import Ledger
from service.state import State
from tests.service.test_state import ITEMS, check, compute, items, wide_and_narrow


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of a bundle whose state is two arrays of odd widths."""
    return wide_and_narrow(tmp_path_factory.mktemp("models"))


def test_a_table_grows_into_the_room_that_another_left(manifest: Manifest) -> None:
    """Once it is full and is told to; no run does it."""
    ledger, catalogue = Ledger(4 * 2**20), items(50_000)
    old, new = (State(manifest, catalogue, compute, ledger, 64) for _ in range(2))
    rows = np.arange(3_000)
    with closing(new):
        old.close()
        new.grow()
        for start in range(0, len(rows), 16):
            check(new, rows[start : start + 16])
        small = new.figures()
        assert small.rows < 300
        new.grow()
        for start in range(0, len(rows), 16):
            check(new, rows[start : start + 16])
        assert new.figures().rows > 10 * small.rows
        assert small.bytes < new.figures().bytes == ledger.taken() < 4 * 2**20


def test_no_run_needs_the_account(manifest: Manifest, tmp_path: Path) -> None:
    """The folder of the workers is deleted: what is open serves, grows no more, and closes; others open."""
    folder = tmp_path / "state"
    folder.mkdir()
    ledger, catalogue = Ledger(4 * 2**20, 2, folder), items(50_000)
    with closing(State(manifest, catalogue, compute, ledger, 64)) as state:
        shutil.rmtree(folder)
        for start in range(0, 5_000, 64):
            check(state, np.arange(start, start + 64))
        state.grow()
        with closing(State(manifest, items(), compute, ledger, 64)) as other:
            check(other, np.arange(other.max_rows))


def test_a_catalogue_that_was_crowded_out_says_so(manifest: Manifest) -> None:
    """Where it would be resident without the version before it; room for two keeps both resident."""
    row = ITEMS * (1012 + KEPT_BYTES) + 2**17
    for whole, modes in ((row * 3 // 2, ["resident", "on_demand"]), (row * 5 // 2, ["resident"] * 2)):
        ledger = Ledger(whole)
        with ExitStack() as opened:
            states = [
                opened.enter_context(closing(State(manifest, items(), compute, ledger, 64))) for _ in modes
            ]
            figures = [state.figures() for state in states]
            assert [found.mode for found in figures] == modes
            crowded = [found.mode == "on_demand" for found in figures]
            assert ["after a restart" in str(found) for found in figures] == crowded
    with closing(State(manifest, items(50_000), compute, Ledger(row), 64)) as state:
        assert (state.figures().mode, state.figures().note) == ("on_demand", "")


def test_what_is_counted_can_begin_anew(manifest: Manifest) -> None:
    """What is held stays."""
    with closing(State(manifest, items(50_000), compute, Ledger(4 * 2**20), 64)) as state:
        check(state, np.arange(64))
        state.count_anew()
        check(state, np.arange(32, 96))
        assert state.figures().counts == {"hit": 32, "miss": 32, "evicted": 0}
