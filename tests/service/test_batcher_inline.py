"""Runs on the event loop: which, in whose company, and what happens between two of them."""

import asyncio

import pytest

from service.cost import Cost
from service.errors import NotReady, Overloaded
from tests.service.held import Bench, Entry, PoisonError, outcomes, settle

COST = Cost(fixed_s=0.0, row_s=0.001)
INLINE_S = 0.01
LONG = 11
"""rows that take longer than that"""


def bench(cost: Cost | None = COST, max_entries: int = 100, max_queued_rows: int = 1_000) -> Bench:
    """Runs of up to ten rows are short."""
    return Bench(
        cost=cost, inline_s=INLINE_S, max_entries=max_entries, max_queued_rows=max_queued_rows, clock=still
    )


def still() -> float:
    """A clock by which no run takes any time: what is expected of one is never exceeded."""
    return 0.0


async def test_short_runs_need_no_thread() -> None:
    """They are done while the caller waits, and the executor hears of none."""
    short = bench()
    (task,) = await short.submit(Entry("a", 10))
    assert (await task, len(short.engine.jobs), short.batches) == ("A", 0, [["a"]])


async def test_long_runs_and_runs_of_unknown_length_keep_their_thread() -> None:
    """The loop is late by a short run at most."""
    for held in (bench(), bench(cost=None)):
        await held.submit(Entry("a", LONG))
        assert len(held.engine.jobs) == 1


async def test_no_run_is_beside_another() -> None:
    """Short ones wait for the thread's, as the engine is one."""
    held = bench()
    (long,) = await held.submit(Entry("long", LONG))
    (short,) = await held.submit(Entry("short"))
    assert (held.batches, held.rest()) == ([], (1, 1))
    await held.engine.finish()
    assert await outcomes([long, short]) == ["LONG", "SHORT"]
    assert held.batches == [["long"], ["short"]]


async def test_what_arrives_at_once_shares_a_run() -> None:
    """An entry does not run before those that came with it are there."""
    held = bench()
    tasks = await held.submit(Entry("a"), Entry("b"), Entry("c"))
    assert held.batches == [["a", "b", "c"]]
    assert await outcomes(tasks) == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("rows", "first"),
    [((6, 4, 1), ["a", "b"]), ((6, 5), ["a"]), ((10, 1), ["a"]), ((LONG, 1, 9), ["a", "b", "c"])],
)
async def test_a_short_run_takes_no_more_than_keeps_it_short(rows: tuple[int, ...], first: list[str]) -> None:
    """What would make it long runs after it; together with a long one, anything does."""
    held = bench()
    tasks = await held.submit(*(Entry(name, size) for name, size in zip("abc", rows, strict=False)))
    if held.engine.jobs:
        await held.engine.finish()
    assert held.batches[0] == first
    assert await outcomes(tasks) == [*"ABC"][: len(rows)]


async def test_an_answer_is_on_its_way_before_the_next_run() -> None:
    """Nobody's answer waits for another's run: not what it sets off, nor what that does in the turn after."""
    held = bench(max_entries=1)
    loop, order = asyncio.get_running_loop(), list[str]()

    async def caller(name: str) -> None:
        await held.batcher.submit(Entry(name), loop.time() + 60)
        loop.call_soon(lambda: order.append(f"{name} sent after {len(held.batches)} runs"))

    await asyncio.gather(caller("a"), caller("b"))
    await settle()
    assert held.batches == [["a"], ["b"]]
    assert order == ["a sent after 1 runs", "b sent after 2 runs"]


async def test_the_answer_of_a_thread_goes_first_too() -> None:
    """Also where an entry that waits has asked for a turn of its own already."""
    held, order = bench(), list[str]()
    loop = asyncio.get_running_loop()

    async def caller() -> None:
        await held.batcher.submit(Entry("long", LONG), loop.time() + 60)
        loop.call_soon(lambda: order.append(f"long sent after {len(held.batches)} runs"))

    task = asyncio.create_task(caller())
    await settle()
    short = asyncio.create_task(held.batcher.submit(Entry("short"), loop.time() + 60))
    await asyncio.sleep(0)
    await held.engine.step()
    await asyncio.gather(task, short)
    await settle()
    assert order == ["long sent after 1 runs"]


async def test_who_comes_while_a_failed_batch_is_halved_waits_like_others() -> None:
    """Its deadline is watched, and what is ahead counts: the halves run first."""
    held = bench(max_queued_rows=5)
    loop = asyncio.get_running_loop()
    bad = [
        asyncio.create_task(held.batcher.submit(Entry(name, 1, PoisonError()), loop.time() + 60))
        for name in "ab"
    ]
    for _ in range(3):  # their own say, and the two turns before the run
        await asyncio.sleep(0)
    assert held.batches == [["a", "b"]]
    with pytest.raises(Overloaded):
        held.batcher.admit(6, loop.time() + 60)
    assert all(isinstance(each, PoisonError) for each in await outcomes(bad))


async def test_the_loop_turns_between_two_runs() -> None:
    """What else is due is not starved by a queue of short runs."""
    held, seen = bench(max_entries=1), list[int]()
    tasks = [
        asyncio.create_task(held.batcher.submit(Entry(name), asyncio.get_running_loop().time() + 60))
        for name in "abc"
    ]
    while not all(task.done() for task in tasks):
        seen.append(len(held.batches))
        await asyncio.sleep(0)
    assert set(seen) >= {0, 1, 2}


async def test_a_poisonous_entry_harms_no_other() -> None:
    """As in a thread: the batch is halved until it is alone."""
    held = bench()
    tasks = await held.submit(Entry("a"), Entry("bad", error=PoisonError()), Entry("c"))
    a, bad, c = await outcomes(tasks)
    assert (a, c) == ("A", "C")
    assert isinstance(bad, PoisonError)


async def test_drain_waits_for_a_run_that_has_not_begun() -> None:
    """What was taken in is answered; what comes then is refused."""
    held = bench()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(held.batcher.submit(Entry("a"), loop.time() + 60))
    await asyncio.sleep(0)
    assert held.rest() == (1, 1)
    await held.batcher.drain()
    assert (held.batches, await task) == ([["a"]], "A")
    assert isinstance((await outcomes(await held.submit(Entry("late"))))[0], NotReady)


async def test_close_fails_what_has_not_begun() -> None:
    """And the engine never hears of it."""
    held = bench()
    task = asyncio.create_task(held.batcher.submit(Entry("a"), asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    held.batcher.close()
    assert isinstance((await outcomes([task]))[0], NotReady)
    await held.batcher.drain()
    await settle()
    assert held.batches == []
