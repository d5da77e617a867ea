"""What is run: one load, several, or the search for the highest that holds; with a bar while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service.loadtest import search
from service.loadtest.notes import Judged
from service.loadtest.plan import Load
from service.loadtest.processes import Generators, Tell
from service.loadtest.report import Kind


@dataclass(frozen=True, slots=True)
class Measure:
    """Generators, and what every load of them has in common."""

    generators: Generators
    load: Load
    """the only one, or the first"""
    slo_p99_ms: float | None
    console: Console
    """of the bar"""

    def all(self, kind: Kind, rates: tuple[float, ...] | None) -> list[Judged]:
        """Whatever kind of test it is; `rates` are those of a sweep."""
        if kind == Kind.SEARCH:
            return self._search()
        return [self._run(self.load)] if kind == Kind.ONE else self._sweep(rates or ())

    def _sweep(self, rates: tuple[float, ...]) -> list[Judged]:
        """A load of every rate; with none given, of rates that lead beyond what the service can do."""
        if rates:
            return [self._run(replace(self.load, rate=rate)) for rate in sorted(set(rates))]
        runs: list[Judged] = []
        while (rate := search.next_of_sweep(_tried(runs), self.load.rate)) is not None:
            runs.append(self._run(replace(self.load, rate=rate)))
        return runs

    def _search(self) -> list[Judged]:
        """Loads in search of the highest rate that keeps the objective."""
        assert self.slo_p99_ms is not None
        runs: list[Judged] = []
        load = replace(self.load, windows=search.WINDOWS)
        while (rate := search.next_rate(search.steps(runs), load.rate, self.slo_p99_ms)) is not None:
            runs.append(self._run(replace(load, rate=rate, seed=load.seed + len(runs))))
        return runs

    def _run(self, load: Load) -> Judged:
        with self._bar(load) as tell:
            return Judged(load, self.generators.run(load, tell), self.slo_p99_ms)

    @contextmanager
    def _bar(self, load: Load) -> Iterator[Tell]:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[so_far]}"))
        with Progress(
            *columns,
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task(f"{load.rate:g}/s", total=load.rate * load.duration_s, so_far="")

            def tell(planned: int, answered: int, failed: int) -> None:
                waiting = planned - answered - failed
                so_far = f"{answered:,} answered, {waiting:,} on their way, {failed:,} failed"
                progress.update(task, completed=planned, so_far=so_far)

            yield tell


def _tried(runs: list[Judged]) -> list[tuple[float, bool]]:
    """Rates, and whether each was too much for the service, or for its generator."""
    return [(run.load.rate, run.overload is not None or run.hides_service) for run in runs]
