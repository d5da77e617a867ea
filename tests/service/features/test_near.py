"""The near cache: how long it keeps what, and who asks the store."""

from __future__ import annotations

import asyncio

import pytest

from service.features.near import UNHEARD_S, Entry, NearCache
from service.features.store import Row, RowKey
from service.telemetry import Telemetry
from tests.service.features.stores import HeldStore
from tests.service.features.test_breaker import Clock

A, B, C, D = (("item", name) for name in "abcd")
LONG_S = 30.0


@pytest.fixture
def clock() -> Clock:
    """Seconds that pass when told to."""
    return Clock()


@pytest.fixture
def store() -> HeldStore:
    """It knows all but d."""
    return HeldStore({key: {"name": key[1]} for key in (A, B, C)})


@pytest.fixture
def near(store: HeldStore, clock: Clock) -> NearCache:
    """A cache of three entries that hears of changes."""
    near = NearCache(store, entries=3, ttl_s=10, telemetry=Telemetry(), clock=clock)
    near.hears(True)
    return near


async def fetched(near: NearCache, *keys: RowKey, within_s: float = LONG_S) -> dict[RowKey, str | None]:
    """The names in the rows; None where there is no row."""
    return {key: named(entry) for key, entry in (await near.fetch(keys, within_s)).items()}


def named(entry: Entry) -> str | None:
    """The name in a row."""
    return None if entry.row is None else str(entry.row.fields["name"])


def held(near: NearCache, *keys: RowKey) -> list[RowKey]:
    """The keys whose entries are near."""
    return [key for key, entry in zip(keys, near.entries(keys), strict=True) if entry is not None]


async def test_an_entry_lives_as_long_as_it_may(near: NearCache, store: HeldStore, clock: Clock) -> None:
    """And then no longer; that there is no row is kept as long."""
    assert held(near, A, D) == []
    assert await fetched(near, A, D) == {A: "a", D: None}
    clock.now += 9.9
    assert held(near, A, B, D) == [A, D]
    clock.now += 0.1
    assert held(near, A, B, D) == []
    assert store.fetches == [[A, D]]


async def test_while_it_hears_of_no_change_an_entry_is_fresh_for_a_second(
    near: NearCache, store: HeldStore, clock: Clock
) -> None:
    """Then it is asked for again, and known on for its time to live; hearing again begins anew."""
    await fetched(near, A)
    clock.now += 5
    await fetched(near, B)
    near.hears(False)
    assert held(near, A, B) == [B]
    clock.now += UNHEARD_S
    assert held(near, A, B) == []
    assert [near.stale(key) is not None for key in (A, B, C)] == [True, True, False]
    clock.now += 4
    assert [near.stale(key) is not None for key in (A, B)] == [False, True]
    near.hears(True)
    assert (len(near), near.stale(B)) == (0, None)


async def test_no_more_entries_than_it_may_hold(near: NearCache) -> None:
    """The oldest goes; one that is fetched again is the youngest."""
    for key in (A, B, C, A, D):
        await fetched(near, key)
    assert (len(near), held(near, A, B, C, D)) == (3, [A, C, D])


async def test_more_than_it_holds_is_found_all_the_same(near: NearCache) -> None:
    """What is fetched is the caller's, whether or not it stays near."""
    assert await fetched(near, A, B, C, D) == {A: "a", B: "b", C: "c", D: None}
    assert len(near) == 3


async def test_requests_that_lack_the_same_share_one_fetch(near: NearCache, store: HeldStore) -> None:
    """Each asks only for what nobody is asking for, and gets all that it wants."""
    store.free.clear()
    waiting = [asyncio.create_task(fetched(near, *keys)) for keys in ((A, B), (B, A), (B, C))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.free.set()
    assert await asyncio.gather(*waiting) == [{A: "a", B: "b"}, {B: "b", A: "a"}, {B: "b", C: "c"}]
    assert store.fetches == [[A, B], [C]]


async def test_one_that_leaves_takes_nothing_from_the_others(near: NearCache, store: HeldStore) -> None:
    """Cancelled or out of time: the fetch goes on, and what it brings is near."""
    store.free.clear()
    first = asyncio.create_task(fetched(near, A))
    second = asyncio.create_task(fetched(near, A))
    await asyncio.sleep(0)
    first.cancel()
    assert await fetched(near, A, within_s=0.0) == {}
    store.free.set()
    assert await second == {A: "a"}
    assert held(near, A) == [A]
    assert store.fetches == [[A]]


async def test_a_change_is_noticed(near: NearCache, store: HeldStore) -> None:
    """The rows that changed are forgotten; all of them where any may have changed."""
    await fetched(near, A, B, C)
    near.drop([A, D])
    assert held(near, A, B, C) == [B, C]
    near.drop(None)
    assert held(near, A, B, C) == []


async def test_a_change_may_bring_the_rows(near: NearCache, store: HeldStore) -> None:
    """Those that are near hold from now on, and are not asked for; one that is not near stays away."""
    await fetched(near, A, B)
    near.drop([A, B, D], {A: Row(2, {"name": "new"}), D: Row(2, {"name": "d"})})
    assert held(near, A, B, D) == [A]
    near.drop([A], {A: Row(2, {"name": "new"})})  # told of twice
    (entry,) = near.entries([A])
    assert entry is not None
    assert (named(entry), store.fetches) == ("new", [[A, B]])


async def test_a_row_that_is_told_of_late_is_not_kept(near: NearCache, store: HeldStore) -> None:
    """What was read meanwhile is later: it is asked for again, as nobody knows what holds."""
    store.rows[A] = Row(3, {"name": "later"})
    await fetched(near, A)
    near.drop([A], {A: Row(2, {"name": "new"})})
    assert held(near, A) == []


async def test_a_row_that_was_not_there_may_be_brought(near: NearCache) -> None:
    """That there was none is near, too."""
    await fetched(near, D)
    near.drop([D], {D: Row(1, {"name": "d"})})
    assert held(near, D) == [D]


@pytest.mark.parametrize("changed", [[A], None])
async def test_a_row_that_changes_while_it_is_fetched_is_not_kept(
    near: NearCache, store: HeldStore, changed: list[RowKey] | None
) -> None:
    """Who asked before may get the old row; who asks afterwards gets the new one."""
    store.free.clear()
    before = asyncio.create_task(fetched(near, A))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.rows[A] = Row(2, {"name": "new"})
    near.drop(changed)
    after = asyncio.create_task(fetched(near, A))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.free.set()
    assert (await before, await after) == ({A: "a"}, {A: "new"})
    (entry,) = near.entries([A])
    assert entry is not None
    assert named(entry) == "new"
    assert store.fetches == [[A], [A]]


async def test_what_failed_is_not_kept(near: NearCache, store: HeldStore) -> None:
    """It is left out of the answer, and asked for again the next time."""
    store.failing = True
    assert await fetched(near, A, B) == {}
    store.failing = False
    assert await fetched(near, A) == {A: "a"}
    assert store.fetches == [[A, B], [A]]


async def test_what_is_no_row_is_told_apart(near: NearCache, store: HeldStore) -> None:
    """A corrupt one harms no other, and is not asked for with every request."""
    store.rows[B] = None
    entries = await near.fetch([A, B, D], LONG_S)
    assert {key: entry.sound for key, entry in entries.items()} == {A: True, B: False, D: True}
    assert entries[B].row is None
    assert held(near, A, B, D) == [A, B, D]


async def test_nothing_goes_on_when_it_is_closed(near: NearCache, store: HeldStore) -> None:
    """A fetch that hangs ends with the cache."""
    store.free.clear()
    assert await fetched(near, A, within_s=0.0) == {}
    await near.close()
    assert [task for task in asyncio.all_tasks() if task.get_name() == "fetch"] == []
