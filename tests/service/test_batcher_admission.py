"""Who is let in while the engine is busy: those that can be done by their deadline, and nobody else."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cost import Cost
from service.errors import DeadlineExceeded, NotReady, Overloaded
from tests.service.held import Bench, Entry, HeldExecutor, ManualLoop, PoisonError, outcomes, settle

COST = Cost(1.0, 0.5)
"""a second a run and half a second a row"""


def by_hand(life: Callable[[ManualLoop], Coroutine[Any, Any, None]]) -> None:
    """Run a life of a batcher on a clock that the test moves."""

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualLoop)
        await life(loop)

    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        runner.run(begin())


def test_an_idle_engine_takes_what_can_never_be_in_time() -> None:
    """The cost may be wrong: only a run can tell."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(clock=loop.time, cost=COST)
        bench.batcher.admit(1_000, 0.1)
        (task,) = await bench.submit(Entry("a", 1_000), within_s=0.1)
        await bench.engine.finish()
        assert await task == "A"

    by_hand(life)


def test_who_cannot_be_in_time_is_refused_at_once() -> None:
    """By what is left of the run, by what waits, and by its own cost: 2.5 s, 3 s and 2 s here."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(max_entries=1, clock=loop.time, cost=COST)
        tasks = await bench.submit(Entry("runs", 4), Entry("waits", 4))
        loop.now = 0.5
        with pytest.raises(Overloaded, match=r"raise deadline_ms, or try again in 0\.01 s") as refusal:
            bench.batcher.admit(2, loop.now + 7.49)
        assert refusal.value.retry_after_s == pytest.approx(0.01)
        bench.batcher.admit(2, loop.now + 7.51)
        tasks += await bench.submit(Entry("late", 2), within_s=7.49)
        tasks += await bench.submit(Entry("in time", 2), within_s=7.51)
        assert bench.rest() == (2, 6)
        await bench.engine.finish()
        runs, waits, late, in_time = await outcomes(tasks)
        assert isinstance(late, Overloaded)
        assert [runs, waits, in_time] == ["RUNS", "WAITS", "IN TIME"]

    by_hand(life)


def test_who_was_let_in_is_not_made_late_by_those_behind() -> None:
    """A batch ends where one more would take it beyond a deadline that it keeps without it."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(clock=loop.time, cost=COST)
        tasks = await bench.submit(Entry("runs", 2))  # for 2 s
        tasks += await bench.submit(Entry("soon", 4), within_s=6.0)  # 3 s, of which 4 are left then
        tasks += await bench.submit(Entry("with it", 2), Entry("after it", 1))
        loop.now = 2.0
        await bench.engine.step()
        loop.now = 6.0
        await bench.engine.finish()
        assert bench.batches == [["runs"], ["soon", "with it"], ["after it"]]
        assert await outcomes(tasks) == ["RUNS", "SOON", "WITH IT", "AFTER IT"]

    by_hand(life)


def test_entries_that_share_a_run_pay_for_it_together() -> None:
    """Four that wait are one run's time ahead, and not that of four."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(max_entries=4, clock=loop.time, cost=COST)
        await bench.hold()
        loop.now = 2.0  # the run is overdue: nothing of it is to be expected
        await bench.submit(*(Entry(name) for name in "abcd"))
        bench.batcher.admit(2, loop.now + 5.01)
        with pytest.raises(Overloaded):
            bench.batcher.admit(2, loop.now + 4.99)
        await bench.engine.finish()

    by_hand(life)


def test_what_is_left_of_a_batch_that_failed_is_ahead_as_well() -> None:
    """It runs before the queue does."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(max_entries=4, clock=loop.time, cost=COST)
        await bench.hold()
        bad = await bench.submit(Entry("bad", 1, PoisonError()), Entry("a"), Entry("b"), Entry("c"))
        loop.now = 1.5
        await bench.engine.step()
        learned = bench.batcher._cost
        await bench.engine.step()  # two of four run again, two are to follow
        ahead = 2 * learned.of(2) + learned.of(1)
        bench.batcher.admit(1, loop.now + ahead + 0.01)
        with pytest.raises(Overloaded):
            bench.batcher.admit(1, loop.now + ahead - 0.01)
        await bench.engine.finish()
        assert [type(outcome) for outcome in await outcomes(bad)] == [PoisonError, str, str, str]

    by_hand(life)


def test_an_unmeasured_engine_refuses_nothing_for_its_deadline() -> None:
    """Only for room; it then says to come back in a second."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(max_queued_rows=100, clock=loop.time)
        await bench.hold()
        bench.batcher.admit(100, 1e-9)
        with pytest.raises(Overloaded, match="too many rows wait already; try again in 1 s") as refusal:
            bench.batcher.admit(101, 60.0)
        assert refusal.value.retry_after_s == 1.0
        await bench.engine.finish()

    by_hand(life)


def test_a_full_queue_says_when_it_will_be_done() -> None:
    """The rest of the run, and all that waits."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(max_rows=10, max_entries=5, max_queued_rows=50, clock=loop.time, cost=COST)
        await bench.submit(Entry("runs", 4), Entry("huge", 40), Entry("small", 2))
        with pytest.raises(Overloaded) as refusal:
            bench.batcher.admit(9, 1_000.0)
        # 1 + 4 / 2 s; 1 + 40 / 2 s alone; and 2 / 2 s with a fifth of a run.
        assert refusal.value.retry_after_s == pytest.approx(3.0 + 21.0 + 1.2)
        await bench.engine.finish()

    by_hand(life)


def test_a_closed_batcher_says_so_first() -> None:
    """Whatever the deadline."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(clock=loop.time, cost=COST)
        await bench.hold()
        bench.batcher.close()
        with pytest.raises(NotReady):
            bench.batcher.admit(1, -1.0)
        await bench.engine.finish()

    by_hand(life)


def test_a_cost_that_is_far_too_high_mends_itself() -> None:
    """What the idle engine takes teaches it better, until others are let in behind."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(clock=loop.time, cost=Cost().after(1, 1e6))
        refused = 0
        for _ in range(100):
            first, second = await bench.submit(Entry("a"), Entry("b"), within_s=1.0)
            loop.now += 0.01
            await bench.engine.finish()
            assert await first == "A"
            refused += isinstance((await outcomes([second]))[0], Overloaded)
        assert 0 < refused < 50

    by_hand(life)


@dataclass
class Line:
    """The plain way: a list of what waits, added up anew each time."""

    bench: Bench
    loop: ManualLoop
    cost: Cost = COST
    running: list[int] = field(default_factory=list)
    waiting: list[tuple[int, float]] = field(default_factory=list)  # rows, deadline
    began: float = 0.0

    def late(self, rows: int, deadline: float) -> float:
        """By how many seconds an entry would miss its deadline."""
        bench, now = self.bench, self.loop.now
        shares = [
            max(Fraction(1, bench.max_entries), Fraction(min(waits, bench.max_rows), bench.max_rows))
            for waits, _ in self.waiting
        ]
        ahead = self.cost.of(sum(waits for waits, _ in self.waiting), float(sum(shares)))
        running = max(0.0, self.cost.of(sum(self.running)) - (now - self.began))
        return now + running + ahead + self.cost.of(rows) - deadline

    def verdict(self, rows: int, deadline: float) -> type[Exception] | None:
        """Whether an entry is refused, and how; where it is not, it waits or runs."""
        if deadline <= self.loop.now:
            return DeadlineExceeded
        if self.running and self.rows + rows > self.bench.max_queued_rows:
            return Overloaded
        if self.running and self.late(rows, deadline) > 0:
            return Overloaded
        self.waiting.append((rows, deadline))
        self.advance()
        return None

    @property
    def rows(self) -> int:
        """How many wait."""
        return sum(waits for waits, _ in self.waiting)

    def advance(self) -> None:
        """Whoever is late leaves; an idle engine takes from the front what fits in a run."""
        self.waiting = [each for each in self.waiting if each[1] > self.loop.now]
        if self.running:
            return
        while self.waiting and len(self.running) < self.bench.max_entries:
            if self.running and sum(self.running) + self.waiting[0][0] > self.bench.max_rows:
                break
            self.running.append(self.waiting.pop(0)[0])
        self.began = self.loop.now

    def finish(self) -> None:
        """The run ends."""
        self.cost = self.cost.after(sum(self.running), self.loop.now - self.began)
        self.running = []
        self.advance()


MOVES = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 12), st.integers(-1, 40)),
    st.tuples(st.just("wait"), st.integers(1, 30), st.just(0)),
    st.tuples(st.just("step"), st.just(0), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MOVES, max_size=40), st.integers(1, 20), st.integers(1, 5), st.integers(1, 40))
def test_admission_is_what_adding_up_the_queue_gives(
    moves: list[tuple[str, int, int]], max_rows: int, max_entries: int, max_queued_rows: int
) -> None:
    """In any schedule: the same are refused, so many rows wait, and nobody is lost."""

    async def life(loop: ManualLoop) -> None:
        bench = Bench(HeldExecutor(), max_rows, max_entries, max_queued_rows, loop.time, COST)
        line, tasks = Line(bench, loop), []
        for number, (kind, amount, within) in enumerate(moves):
            if kind == "submit":
                deadline = loop.now + within / 2.71  # no sum of costs is just that
                expected = line.verdict(amount, deadline)
                (task,) = await bench.submit(Entry(f"e{number}", amount), within_s=deadline - loop.now)
                assert type(task.exception() if task.done() else None) is (expected or type(None))
                tasks += [] if expected else [task]
            elif kind == "wait":
                loop.now += amount / 7
                await settle()
                line.advance()
            elif bench.engine.jobs:
                await bench.engine.step()
                line.finish()
            assert bench.rest() == (len(line.waiting), line.rows)
        await bench.engine.finish()
        for outcome in await outcomes(tasks):
            assert isinstance(outcome, str | DeadlineExceeded)
        assert bench.rest() == (0, 0)

    by_hand(life)
