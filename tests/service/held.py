"""A batcher on an engine that the test holds: nothing runs until the test says so."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from service.batcher import Batcher, BatchRun
from service.cost import Cost


@dataclass(frozen=True)
class Entry:
    """So many rows under a name; its answer is the name in capitals."""

    name: str
    rows: int = 1
    error: BaseException | None = None


class PoisonError(Exception):
    """What a poisonous entry does to the engine."""


class HeldExecutor(Executor):
    """Does nothing until told to: the test decides when the engine is done."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep the job."""
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    async def step(self) -> None:
        """Do the next job, and let all that it sets off come to rest."""
        future, job = self.jobs.popleft()
        future.set_result(job())
        await settle()

    async def finish(self) -> None:
        """Do every job, those that follow included."""
        while self.jobs:
            await self.step()


@dataclass
class Bench:
    """A batcher on a held engine, and what it did."""

    executor: Executor = field(default_factory=HeldExecutor)
    max_rows: int = 100
    max_entries: int = 100
    max_queued_rows: int = 1_000
    clock: Callable[[], float] = time.perf_counter
    cost: Cost | None = None
    inline_s: float = 0.0
    batches: list[list[str]] = field(default_factory=list)
    seen: list[BatchRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batcher: Batcher[Entry, str] = Batcher(
            self.run,
            lambda entry: entry.rows,
            self.executor,
            max_rows=self.max_rows,
            max_entries=self.max_entries,
            max_queued_rows=self.max_queued_rows,
            inline_s=self.inline_s,
            observe=self.seen.append,
            cost=self.cost,
            clock=self.clock,
        )

    def run(self, entries: Sequence[Entry]) -> list[str]:
        """The engine: breaks on the first poisonous entry."""
        self.batches.append([entry.name for entry in entries])
        for entry in entries:
            if entry.error is not None:
                raise entry.error
        return [entry.name.upper() for entry in entries]

    @property
    def engine(self) -> HeldExecutor:
        """What holds the engine."""
        assert isinstance(self.executor, HeldExecutor)
        return self.executor

    async def submit(self, *entries: Entry, within_s: float = 60.0) -> list[asyncio.Task[str]]:
        """A caller an entry, in order; returns when each has had its say."""
        deadline = asyncio.get_running_loop().time() + within_s
        tasks = [asyncio.create_task(self.batcher.submit(entry, deadline)) for entry in entries]
        await settle()
        return tasks

    async def hold(self) -> asyncio.Task[str]:
        """An entry that keeps the engine busy until the next step."""
        (task,) = await self.submit(Entry("hold"))
        return task

    def rest(self) -> tuple[int, int]:
        """What waits: entries and rows."""
        return self.batcher.pending_entries, self.batcher.pending_rows


class ManualLoop(asyncio.SelectorEventLoop):
    """Its clock stands still unless the test moves it."""

    now = 0.0

    def time(self) -> float:
        """The test's time."""
        return self.now


async def settle() -> None:
    """Let everything happen that can happen without the engine or the clock."""
    for _ in range(12):
        await asyncio.sleep(0)


async def jump(seconds: float) -> None:
    """Let so much time pass at once, by the loop's clock, and all happen that comes of it."""
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds  # type: ignore[method-assign]  # it ends with its test
    await settle()


async def outcomes(tasks: Sequence[asyncio.Task[str]]) -> list[str | BaseException]:
    """What each caller got."""
    return await asyncio.gather(*tasks, return_exceptions=True)
