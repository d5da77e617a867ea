"""The batcher under many callers: random schedules on a clock of the test's own, and a real thread."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Batcher
from service.errors import DeadlineExceeded, Overloaded
from tests.service.held import Bench, Entry, HeldExecutor, ManualLoop, PoisonError, outcomes, settle


@dataclass
class Schedule:
    """A random life of a batcher, and what its callers may expect of it."""

    loop: ManualLoop
    bench: Bench
    tasks: list[asyncio.Task[str]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    busy: set[int] = field(default_factory=set)  # came while the engine ran, and may have been refused
    cancelled: set[int] = field(default_factory=set)

    async def play(self, action: tuple[str, int, int]) -> None:
        """One thing that happens; the numbers say to whom and how much."""
        kind, number, amount = action
        if kind in {"submit", "poison"}:
            error = PoisonError(len(self.entries)) if kind == "poison" else None
            await self.submit(Entry(f"e{len(self.entries)}", number, error), self.loop.now + amount)
        elif kind == "cancel" and self.tasks:
            at = number % len(self.tasks)
            if self.tasks[at].cancel():
                self.cancelled.add(at)
        elif kind == "wait":
            self.loop.now += number
        elif self.bench.engine.jobs:
            await self.bench.engine.step()
        await settle()
        entries, rows = self.bench.rest()
        assert entries <= rows <= self.bench.max_queued_rows
        assert bool(self.bench.engine.jobs) or (entries, rows) == (0, 0)

    async def submit(self, entry: Entry, deadline: float) -> None:
        if self.bench.engine.jobs:
            self.busy.add(len(self.entries))
        self.entries.append(entry)
        self.deadlines.append(deadline)
        self.tasks.append(asyncio.create_task(self.bench.batcher.submit(entry, deadline)))

    def check(self) -> None:
        """Everyone has what is theirs, and nothing is left."""
        for at, (entry, task, deadline) in enumerate(
            zip(self.entries, self.tasks, self.deadlines, strict=True)
        ):
            assert task.done()
            if task.cancelled():
                assert at in self.cancelled
            elif isinstance(task.exception(), DeadlineExceeded):
                assert deadline <= self.loop.now
            elif (error := task.exception()) is not None:
                assert error is entry.error or (isinstance(error, Overloaded) and at in self.busy)
            else:
                assert entry.error is None
                assert task.result() == entry.name.upper()
        assert self.bench.rest() == (0, 0)
        self.check_batches()

    def check_batches(self) -> None:
        """Runs keep to the limits, and entries first run in the order in which they came."""
        rows = {entry.name: entry.rows for entry in self.entries}
        for batch in self.bench.batches:
            assert len(batch) <= self.bench.max_entries
            assert len(batch) == 1 or sum(rows[name] for name in batch) <= self.bench.max_rows
        first = list(dict.fromkeys(name for batch in self.bench.batches for name in batch))
        assert first == sorted(first, key=lambda name: int(name[1:]))


ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 9), st.integers(0, 6)),
    st.tuples(st.just("poison"), st.integers(1, 9), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("step"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=40), st.integers(1, 20), st.integers(1, 5), st.integers(1, 30))
def test_any_schedule_gives_everyone_their_own(
    actions: list[tuple[str, int, int]], max_rows: int, max_entries: int, max_queued_rows: int
) -> None:
    """Submits, cancellations, failures and deadlines in any order: their own answer or error, and no rest."""

    async def life() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualLoop)
        bench = Bench(HeldExecutor(), max_rows, max_entries, max_queued_rows, loop.time)
        schedule = Schedule(loop, bench)
        for action in actions:
            await schedule.play(action)
        await bench.engine.finish()
        await bench.batcher.drain()
        schedule.check()

    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        runner.run(life())


async def test_threads_and_many_callers() -> None:
    """On a real thread, with callers that leave when they like, the others get their own answers."""
    rng = np.random.default_rng(1)
    with ThreadPoolExecutor(1) as executor:
        bench = Bench(executor, max_rows=20, max_entries=6, max_queued_rows=10**6)
        names = [f"n{n}" for n in range(400)]
        tasks = []
        for name in names:
            tasks += await bench.submit(Entry(name, 3, PoisonError(name) if rng.random() < 0.05 else None))
            if rng.random() < 0.2:
                tasks[rng.integers(len(tasks))].cancel()
        for name, task, outcome in zip(names, tasks, await outcomes(tasks), strict=True):
            if isinstance(outcome, PoisonError):
                assert outcome.args == (name,)
            else:
                assert task.cancelled() or outcome == name.upper()
        await bench.batcher.drain()
    assert bench.rest() == (0, 0)


async def test_batched_equals_alone() -> None:
    """Entries that share a run on a real thread get the numbers that each gets alone."""
    weights = np.random.default_rng(0).normal(size=(5, 3))
    lists = [np.random.default_rng(n).normal(size=(n % 7 + 1, 5)) for n in range(40)]
    gate, sizes = threading.Event(), []

    def score(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        gate.wait(10)
        sizes.append(len(batch))
        scores = np.concatenate(batch) @ weights
        return np.split(scores, np.cumsum([len(rows) for rows in batch])[:-1])

    deadline = asyncio.get_running_loop().time() + 60
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(score, len, executor, max_rows=16, max_entries=8, max_queued_rows=1_000)
        tasks = [asyncio.create_task(batcher.submit(rows, deadline)) for rows in lists]
        await settle()
        gate.set()
        together = await asyncio.gather(*tasks)
        for rows, scores in zip(lists, together, strict=True):
            np.testing.assert_allclose(scores, await batcher.submit(rows, deadline), rtol=1e-12)
    assert max(sizes) > 1
    assert batcher.pending_rows == 0
