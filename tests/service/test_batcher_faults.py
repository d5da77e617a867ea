"""What goes wrong in a batch stays with the entry that it belongs to."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from service.batcher import Batcher, BatchRun
from service.errors import DeadlineExceeded, Overloaded
from tests.service.held import Bench, Entry, HeldExecutor, PoisonError, jump, outcomes, settle


class BrokenExecutor(Executor):
    """Has been shut down."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As the one of the standard library."""
        raise RuntimeError("cannot schedule new futures after shutdown")


async def test_a_cancelled_entry_leaves_the_queue_at_once() -> None:
    """Its rows are free before the engine is, it never runs, and its neighbours are answered."""
    bench = Bench(max_queued_rows=10)
    await bench.hold()
    left, gone, refused = await bench.submit(Entry("left", 2), Entry("gone", 8), Entry("refused", 1))
    assert isinstance((await outcomes([refused]))[0], Overloaded)
    gone.cancel()
    await settle()
    assert bench.rest() == (1, 2)
    (late,) = await bench.submit(Entry("late", 8))
    await bench.engine.finish()
    assert bench.batches == [["hold"], ["left", "late"]]
    assert await outcomes([left, late]) == ["LEFT", "LATE"]
    assert gone.cancelled()


async def test_an_entry_cancelled_while_it_runs_harms_nobody() -> None:
    """Its answer is dropped; the others in its batch have theirs, and so has who comes later."""
    bench = Bench()
    await bench.hold()
    tasks = await bench.submit(Entry("a"), Entry("gone"), Entry("b"))
    await bench.engine.step()
    tasks[1].cancel()
    (late,) = await bench.submit(Entry("late"))
    await bench.engine.finish()
    assert bench.batches[1] == ["a", "gone", "b"]
    assert await outcomes([tasks[0], tasks[2], late]) == ["A", "B", "LATE"]
    assert tasks[1].cancelled()
    assert bench.rest() == (0, 0)


async def test_an_entry_cancelled_as_the_engine_comes_free_never_runs() -> None:
    """Cancelled callers are seen when the batch is cut, even before they have woken up."""
    bench = Bench()
    await bench.hold()
    gone, stays = await bench.submit(Entry("gone"), Entry("stays"))
    future, job = bench.engine.jobs.popleft()
    future.set_result(job())
    gone.cancel()
    await settle()
    await bench.engine.finish()
    assert bench.batches[1:] == [["stays"]]
    assert await stays == "STAYS"


@pytest.mark.parametrize("poisoned", [{0}, {7}, {3}, {2, 3}, {0, 5, 7}, set(range(8))])
async def test_only_the_poisonous_entries_of_a_batch_fail(poisoned: set[int]) -> None:
    """A batch that fails is halved until the guilty are alone, each with its own error."""
    bench = Bench()
    await bench.hold()
    errors = {n: PoisonError(f"entry {n}") for n in poisoned}
    tasks = await bench.submit(*(Entry(f"e{n}", error=errors.get(n)) for n in range(8)))
    (later,) = await bench.submit(Entry("later", 100))
    await bench.engine.finish()
    assert await outcomes(tasks) == [errors.get(n, f"E{n}") for n in range(8)]
    assert await later == "LATER"
    assert bench.batches[-1] == ["later"]
    assert bench.rest() == (0, 0)


async def test_the_halves_of_a_failed_batch_keep_only_who_still_waits() -> None:
    """A caller who leaves, and one whose deadline passes, between two tries are not tried again."""
    bench = Bench()
    await bench.hold()
    bad, good = await bench.submit(Entry("bad", error=PoisonError()), Entry("good"))
    gone, good_too = await bench.submit(Entry("gone"), Entry("good too"))
    (late,) = await bench.submit(Entry("late"), within_s=30)
    await bench.engine.step()
    await bench.engine.step()  # all five fail
    gone.cancel()
    await jump(35)
    await bench.engine.finish()
    assert bench.batches[1:] == [
        ["bad", "good", "gone", "good too", "late"],
        ["bad", "good"],
        ["bad"],
        ["good"],
        ["good too"],
    ]
    assert isinstance(bad.exception(), PoisonError)
    assert isinstance(late.exception(), DeadlineExceeded)
    assert await outcomes([good, good_too]) == ["GOOD", "GOOD TOO"]


@pytest.mark.parametrize("given", [0, 1, 3])
async def test_a_wrong_number_of_results_is_an_error_that_names_it(given: int) -> None:
    """Nobody is given a neighbour's answer, nor left waiting."""
    bench = Bench()
    batcher: Batcher[Entry, str] = Batcher(
        lambda entries: ["?"] * (given if len(entries) == 2 else 2),
        lambda entry: entry.rows,
        bench.executor,
        max_rows=10,
        max_entries=2,
        max_queued_rows=10,
    )
    deadline = asyncio.get_running_loop().time() + 60
    tasks = [asyncio.create_task(batcher.submit(Entry(name), deadline)) for name in "abc"]
    await settle()
    await bench.engine.finish()
    for outcome in await outcomes(tasks):
        assert isinstance(outcome, ValueError)
        assert str(outcome) == "run gave 2 results for 1 entries"
    assert batcher.pending_rows == 0


@pytest.mark.parametrize(
    "error", [StopIteration(3), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_nothing_that_run_raises_can_stop_the_batcher(error: BaseException) -> None:
    """What no future may carry, or what would end the loop, arrives as an error that names it."""
    bench = Bench()
    await bench.hold()
    good, bad = await bench.submit(Entry("good"), Entry("bad", error=error))
    await bench.engine.finish()
    assert await good == "GOOD"
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await bad
    (later,) = await bench.submit(Entry("later"))
    await bench.engine.finish()
    assert await later == "LATER"


@pytest.mark.parametrize("rows", [0, -1, float("nan"), None, "3"])
async def test_an_entry_that_cannot_be_sized_fails_alone(rows: Any) -> None:
    """An error in `rows` is its caller's; the queue never sees the entry."""
    bench = Bench()
    await bench.hold()
    odd, fine = await bench.submit(Entry("odd", rows=rows), Entry("fine"))
    assert isinstance((await outcomes([odd]))[0], ValueError | TypeError)
    assert bench.rest() == (1, 1)
    await bench.engine.finish()
    assert await fine == "FINE"


async def test_an_observer_that_fails_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Telemetry cannot cost an answer."""
    executor = HeldExecutor()

    def observe(run: BatchRun) -> None:
        raise PoisonError(f"{run.rows} rows")

    batcher: Batcher[str, str] = Batcher(
        lambda entries: [entry.upper() for entry in entries],
        len,
        executor,
        max_rows=9,
        max_entries=9,
        max_queued_rows=9,
        observe=observe,
    )
    deadline = asyncio.get_running_loop().time() + 60
    tasks = [asyncio.create_task(batcher.submit(name, deadline)) for name in ("a", "b")]
    await settle()
    await executor.finish()
    assert await outcomes(tasks) == ["A", "B"]
    assert caplog.text.count("observe failed") == 2


async def test_an_executor_that_is_shut_down_fails_its_callers() -> None:
    """They hear of it, one and all; none waits for ever."""
    bench = Bench(BrokenExecutor())
    for outcome in await outcomes(await bench.submit(Entry("a"), Entry("b"))):
        assert isinstance(outcome, RuntimeError)
    await bench.batcher.drain()
    assert bench.rest() == (0, 0)


async def test_a_run_that_the_executor_drops_fails_its_callers() -> None:
    """A shutdown that cancels what has not begun leaves nobody waiting."""
    bench = Bench()
    await bench.hold()
    tasks = await bench.submit(Entry("a"), Entry("b"))
    await bench.engine.step()
    bench.engine.jobs.popleft()[0].cancel()
    await settle()
    while bench.engine.jobs:
        bench.engine.jobs.popleft()[0].cancel()
        await settle()
    for outcome in await outcomes(tasks):
        assert isinstance(outcome, RuntimeError)
    await bench.batcher.drain()
