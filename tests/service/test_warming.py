"""A version holds what its predecessor held: what there is room for at once, and more when that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import cast

import numpy as np
import pytest

from service import warming
from service.bundle import pieces as bundle_pieces
from service.bundle.columns import Numbers, Rows, strings
from service.bundle.encoder import Encoder
from service.bundle.manifest import Manifest
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from service.ledger import Ledger
from service.settings import Settings
from service.state import State
from service.warming import PIECE, Warming
from tests.service.test_state import check, compute, items, wide_and_narrow

ITEMS = 5_000
WHOLE = 4 * 2**20
HELD = 1_000
"""items that the predecessor holds: more than the first room of its successor, and less than the last"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of a bundle whose state is two arrays of odd widths."""
    return wide_and_narrow(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else needs the machine."""
    monkeypatch.setattr(warming, "PAUSE_S", 0.0)
    monkeypatch.setattr(warming, "LOOK_S", 0.001)


IDS = [str(number) for number in range(1, ITEMS + 1)]
ASKED = np.random.default_rng(0).permutation(ITEMS)[:HELD] + 1
"""rows of the items that the predecessor is asked for, in that order"""
HALF = IDS[::-2]
"""items that the successor knows"""
WANTED = [item for row in ASKED[::-1] if (item := IDS[row - 1]) in set(HALF)]
"""those of them that the predecessor holds, the last used first, but for what was used at once"""


def catalogue(ids: Sequence[str]) -> Encoder:
    """An encoder that knows these items, in this order."""
    tables = {
        "user": Table("user", [strings(())], {}),
        "item": Table("item", [strings(ids)], {"length": Numbers(np.zeros(len(ids)))}),
    }
    length = {"kind": "numeric", "name": "length", "source": "item.length", "standardise": False}
    return Encoder(FeatureSchema.model_validate({"features": [length]}), {}, tables)


class Version:
    """The state of some items, and what keeps it warm; busy while it is told so."""

    def __init__(self, manifest: Manifest, ledger: Ledger, ids: Sequence[str]) -> None:
        self.ids, self.ledger = ids, ledger
        self.state = State(manifest, items(len(ids) + 1), compute, ledger, 64)
        self.is_busy = False
        self.warming = Warming(catalogue(ids), self.state, lambda: not self.is_busy)
        opened = ExitStack()
        opened.callback(self.state.close)
        self.close = opened.close  # for good, where a test closes it before its end

    def held(self) -> set[str]:
        """Items that are held, by name."""
        return {self.ids[row - 1] for row in self.state.recent()}


@pytest.fixture
def old(manifest: Manifest) -> Iterator[Version]:
    """A version that holds what it was asked for, and what it takes an unknown item for."""
    with closing(Version(manifest, Ledger(WHOLE), IDS)) as old:
        check(old.state, np.array([0]))
        for start in range(0, HELD, 50):
            check(old.state, ASKED[start : start + 50])
        yield old


@pytest.fixture
def new(manifest: Manifest, old: Version) -> Iterator[Version]:
    """A version beside it, of half of its items in another order, which follows it."""
    with closing(Version(manifest, old.ledger, HALF)) as new:
        new.warming.follow(old.warming)
        yield new


def make_room(old: Version, new: Version) -> None:
    """The predecessor goes, and its successor, full by now, takes the room."""
    old.close()
    others = np.array([row for row, item in enumerate(HALF, 1) if item not in set(WANTED)])
    check(new.state, others[:PIECE])
    new.state.grow()


def test_it_begins_with_what_was_used_last(old: Version, new: Version) -> None:
    """Of what its predecessor holds, by name, as far as there is room; counted as nobody's."""
    count = len(new.held())
    assert PIECE <= count < len(WANTED) // 2
    assert new.state.room < PIECE
    assert new.held() <= set(WANTED[: count + 50])
    assert new.state.figures().counts == {"hit": 0, "miss": 0, "evicted": 0}
    check(new.state, np.array([HALF.index(item) + 1 for item in new.held()])[:PIECE])
    assert new.state.figures().counts == {"hit": PIECE, "miss": 0, "evicted": 0}


async def test_it_goes_on_when_there_is_room(old: Version, new: Version) -> None:
    """Once its predecessor has gone, and while its own engine is idle; it ends when it holds all."""
    at_first = new.held()
    make_room(old, new)  # which takes the place of some
    full, new.is_busy = new.held(), True
    going_on = asyncio.create_task(new.warming.go_on())
    await asyncio.sleep(0.01)
    assert (going_on.done(), new.held()) == (False, full)
    new.is_busy = False
    await asyncio.wait_for(going_on, 5)
    assert full | set(WANTED) - at_first <= new.held()


async def test_it_gives_up_where_no_room_comes(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wanted long ago is nothing to make ready for."""
    monkeypatch.setattr(warming, "LIMIT_S", 0.02)
    await asyncio.wait_for(new.warming.go_on(), 5)
    make_room(old, new)
    full = new.held()
    await asyncio.wait_for(new.warming.go_on(), 5)
    assert new.held() == full


async def test_it_gives_up_where_the_engine_is_never_idle(
    old: Version, new: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room alone is no reason to go on for ever."""
    monkeypatch.setattr(warming, "LIMIT_S", 0.02)
    make_room(old, new)
    full, new.is_busy = new.held(), True
    await asyncio.wait_for(new.warming.go_on(), 5)
    assert new.held() == full


def test_it_lasts_longer_than_a_promotion() -> None:
    """Room comes at its end: when every worker is ready, and the predecessor has gone."""
    assert Settings.model_fields["swap_timeout_s"].default + 60 <= warming.LIMIT_S


def test_names_are_looked_up_a_piece_at_a_time(
    manifest: Manifest, old: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of C for all of them would keep the GIL meanwhile; what is held is the same."""
    monkeypatch.setattr(bundle_pieces, "PIECE", 64)
    catalogue_of_half, sizes = catalogue(HALF), list[int]()

    class Counting:
        def item_rows(self, ids: Sequence[str]) -> Rows:
            sizes.append(len(ids))
            return catalogue_of_half.item_rows(ids)

    with closing(Version(manifest, old.ledger, HALF)) as new:
        warming = Warming(cast(Encoder, Counting()), new.state, lambda: True)
        warming.follow(old.warming)
        assert sum(sizes) >= HELD - PIECE
        assert max(sizes) <= 64
        assert new.held() <= set(WANTED)
        assert len(new.held()) >= PIECE


async def test_it_can_be_ended(old: Version, new: Version) -> None:
    """As before the state is closed: nothing touches it from then on."""
    make_room(old, new)
    new.is_busy = True
    going_on = asyncio.create_task(new.warming.go_on())
    await asyncio.sleep(0.01)
    full = new.held()
    new.warming.end()
    new.is_busy = False
    await asyncio.wait_for(going_on, 5)
    assert new.held() == full


def test_a_catalogue_that_is_held_needs_no_warming(manifest: Manifest, old: Version) -> None:
    """All of its items' state is there from the start."""
    with closing(Version(manifest, Ledger(16 * WHOLE), HALF)) as whole:
        whole.warming.follow(old.warming)
        assert whole.state.room == 0
        assert whole.state.figures().mode == "resident"
        assert whole.held() == set()
