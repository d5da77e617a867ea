"""How entries become batches: who runs with whom and when, who may wait, how it ends."""

import asyncio

import pytest

from service.errors import DeadlineExceeded, NotReady, Overloaded
from tests.service.held import Bench, Entry, PoisonError, jump, outcomes, settle


async def test_an_idle_engine_takes_an_entry_at_once() -> None:
    """No entry waits for others to join it."""
    bench = Bench()
    (task,) = await bench.submit(Entry("a"))
    assert len(bench.engine.jobs) == 1
    assert bench.rest() == (0, 0)
    await bench.engine.finish()
    assert await task == "A"


async def test_what_queues_while_the_engine_is_busy_is_the_next_batch() -> None:
    """The batch is what waited, in the order it came, and each gets its own answer."""
    bench = Bench()
    held = await bench.hold()
    tasks = await bench.submit(*(Entry(name, rows=2) for name in "abc"))
    assert bench.rest() == (3, 6)
    await bench.engine.finish()
    assert bench.batches == [["hold"], ["a", "b", "c"]]
    assert await outcomes([held, *tasks]) == ["HOLD", "A", "B", "C"]
    assert bench.rest() == (0, 0)


async def test_batches_are_cut_by_rows() -> None:
    """A batch takes entries from the head while they fit; nobody overtakes the one that does not."""
    bench = Bench(max_rows=10)
    await bench.hold()
    tasks = await bench.submit(Entry("a", 6), Entry("b", 4), Entry("c", 5), Entry("d", 6), Entry("e", 1))
    await bench.engine.finish()
    assert bench.batches == [["hold"], ["a", "b"], ["c"], ["d", "e"]]
    assert await outcomes(tasks) == ["A", "B", "C", "D", "E"]


async def test_batches_are_cut_by_entries() -> None:
    """On a processor where one request a run is fastest, max_entries=1 gives that."""
    bench = Bench(max_entries=1)
    await bench.hold()
    await bench.submit(Entry("a"), Entry("b"))
    await bench.engine.finish()
    assert bench.batches == [["hold"], ["a"], ["b"]]


async def test_an_oversize_entry_runs_alone() -> None:
    """More rows than a batch may have are no reason to refuse, nor to weigh on others."""
    bench = Bench(max_rows=10)
    await bench.hold()
    tasks = await bench.submit(Entry("a", 2), Entry("huge", 500), Entry("b", 2))
    await bench.engine.finish()
    assert bench.batches == [["hold"], ["a"], ["huge"], ["b"]]
    assert await outcomes(tasks) == ["A", "HUGE", "B"]


async def test_a_deadline_is_kept_while_the_engine_is_busy() -> None:
    """At its deadline an entry leaves the queue, while the engine still runs; its neighbour is served."""
    bench = Bench()
    await bench.hold()
    (late,) = await bench.submit(Entry("late", 5), within_s=0.01)
    (patient,) = await bench.submit(Entry("patient", 3))
    with pytest.raises(DeadlineExceeded):
        await late
    assert len(bench.engine.jobs) == 1
    assert bench.rest() == (1, 3)
    await bench.engine.finish()
    assert bench.batches == [["hold"], ["patient"]]
    assert await patient == "PATIENT"


async def test_a_deadline_in_the_past_is_refused_at_once() -> None:
    """Even an idle engine has nothing to do for a caller who has gone, nor by a time that is no number."""
    bench = Bench()
    for within_s in (0.0, -1.0, float("nan")):
        (task,) = await bench.submit(Entry("a"), within_s=within_s)
        assert isinstance((await outcomes([task]))[0], DeadlineExceeded)
    assert bench.batches == []
    assert not bench.engine.jobs


async def test_a_deadline_that_passes_while_the_entry_runs_does_not_undo_the_work() -> None:
    """The deadline is for the queue: what has begun to run is answered."""
    bench = Bench()
    await bench.hold()
    (task,) = await bench.submit(Entry("a"), within_s=30)
    await bench.engine.step()
    await jump(35)
    assert not task.done()
    await bench.engine.finish()
    assert await task == "A"


async def test_a_full_queue_refuses_at_once() -> None:
    """Beyond max_queued_rows a caller hears so before any work, and who was let in is served."""
    bench = Bench(max_queued_rows=10)
    await bench.hold()
    let_in = await bench.submit(Entry("a", 6), Entry("b", 4))
    (refused,) = await bench.submit(Entry("c", 1))
    assert refused.done()
    with pytest.raises(Overloaded, match="try again"):
        await refused
    assert bench.rest() == (2, 10)
    await bench.engine.finish()
    assert await outcomes(let_in) == ["A", "B"]
    (welcome,) = await bench.submit(Entry("c", 1))
    await bench.engine.finish()
    assert await welcome == "C"


async def test_an_idle_engine_takes_what_could_never_queue() -> None:
    """max_queued_rows bounds what waits, and this entry does not."""
    bench = Bench(max_queued_rows=1)
    (task,) = await bench.submit(Entry("a", 50))
    await bench.engine.finish()
    assert await task == "A"


async def test_the_observer_is_told_of_every_run() -> None:
    """Size, waiting and running time, and whether it failed."""
    bench = Bench()
    await bench.hold()
    await bench.submit(Entry("a", 4), Entry("b", 3, PoisonError()))
    await bench.engine.finish()
    assert [(run.entries, run.rows, run.failed) for run in bench.seen] == [
        (1, 1, False),
        (2, 7, True),
        (1, 4, False),
        (1, 3, True),
    ]
    assert all(run.queue_s >= 0 and run.run_s >= 0 for run in bench.seen)


async def test_drain_answers_who_waits_and_refuses_who_comes() -> None:
    """It ends when the last answer is out, not before."""
    bench = Bench(max_entries=1)
    tasks = [await bench.hold(), *await bench.submit(Entry("a"), Entry("b"))]
    drained = asyncio.create_task(bench.batcher.drain())
    await settle()
    (refused,) = await bench.submit(Entry("c"))
    assert isinstance((await outcomes([refused]))[0], NotReady)
    await bench.engine.step()
    await bench.engine.step()
    assert not drained.done()
    await bench.engine.step()
    assert drained.done()
    assert await outcomes(tasks) == ["HOLD", "A", "B"]


async def test_drain_waits_for_the_engine_even_with_no_caller_left() -> None:
    """Who drains wants to free the engine: a run that nobody listens to still uses it."""
    bench = Bench()
    held = await bench.hold()
    held.cancel()
    drained = asyncio.create_task(bench.batcher.drain())
    await settle()
    assert not drained.done()
    await bench.engine.finish()
    assert drained.done()


async def test_close_fails_everything_that_has_no_answer() -> None:
    """Callers in the running batch, in the rest of a failed one and in the queue all hear it."""
    bench = Bench(max_entries=4)
    await bench.hold()
    tasks = await bench.submit(Entry("bad", error=PoisonError()), *(Entry(name) for name in "abcde"))
    await bench.engine.step()
    await bench.engine.step()  # four of six fail: two run again, two are to follow, two wait
    bench.batcher.close()
    assert [type(outcome) for outcome in await outcomes(tasks)] == [NotReady] * 6
    assert bench.rest() == (0, 0)
    drained = asyncio.create_task(bench.batcher.drain())
    await settle()
    assert not drained.done()
    await bench.engine.finish()
    assert drained.done()
    assert bench.batches[-1] == ["bad", "a"]
    assert isinstance((await outcomes(await bench.submit(Entry("f"))))[0], NotReady)


@pytest.mark.parametrize("limits", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_limits_of_nothing_are_refused(limits: tuple[int, int, int]) -> None:
    """A batcher that could never run anything says so at once."""
    max_rows, max_entries, max_queued_rows = limits
    with pytest.raises(ValueError, match="must be at least 1"):
        Bench(max_rows=max_rows, max_entries=max_entries, max_queued_rows=max_queued_rows)
