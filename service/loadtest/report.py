"""What a test says: tables and notes for people, JSON for machines."""

from __future__ import annotations

import math
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.loadtest import search
from service.loadtest.histogram import BEYOND, PERCENTILES, Durations
from service.loadtest.measured import counted
from service.loadtest.notes import Judged
from service.loadtest.processes import Setup

COLUMNS = (*PERCENTILES, 100.0)
STEP_COLUMNS = (50.0, 99.0, 99.9, 100.0)
STEP_TITLE = "requests/s, and milliseconds from when they were due"


class Kind(StrEnum):
    """What a test is after."""

    ONE = "one"
    SWEEP = "sweep"
    SEARCH = "find-max"


@dataclass(frozen=True, slots=True)
class Report:
    """A test, whose runs this tells of."""

    setup: Setup
    kind: Kind
    slo_p99_ms: float | None

    @property
    def about(self) -> str:
        """What was asked, in a line."""
        wanted = self.setup.requests
        mix = ", ".join(
            f"{size:,}" if share == 1 else f"{size:,} ({share:.0%})"
            for size, share in zip(wanted.candidates.sizes, wanted.candidates.shares, strict=True)
        )
        return (
            f"{self.setup.target}, ranker {wanted.ranker}: {mix} candidates of {len(wanted.items):,} items "
            f"(zipf {wanted.zipf:g}), {len(wanted.users):,} users"
        )

    def passed(self, runs: Sequence[Judged]) -> bool:
        """No request failed and the objective was kept; in a search: some rate keeps it."""
        if self.kind == Kind.SEARCH:
            return self._highest(runs) is not None
        return all(run.passed for run in runs)

    def show(self, console: Console, runs: Sequence[Judged]) -> None:
        """Print it."""
        console.print(escape(self.about), highlight=False)
        if self.kind == Kind.ONE:
            _one(console, runs[0])
            return
        ordered = sorted(runs, key=lambda run: run.load.rate)
        _steps(console, runs if self.kind == Kind.SEARCH else ordered)
        if self.kind == Kind.SEARCH:
            console.print(self._found(runs), highlight=False)
        _notes(console, _together(ordered))

    def json(self, runs: Sequence[Judged]) -> dict[str, Any]:
        """Everything, for machines."""
        wanted, bounds, processes = self.setup.requests, self.setup.bounds, self.setup.processes
        mix = wanted.candidates
        return {
            "kind": self.kind,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "generator": {
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "processes": processes,
                "connections": processes * bounds.connections,
                "in_flight": processes * bounds.in_flight,
                "timeout_s": bounds.timeout_s,
            },
            "target": str(self.setup.target),
            "requests": {
                "ranker": wanted.ranker,
                "candidates": [
                    {"size": size, "share": share} for size, share in zip(mix.sizes, mix.shares, strict=True)
                ],
                "users": len(wanted.users),
                "items": len(wanted.items),
                "zipf": wanted.zipf,
                "tasks": wanted.tasks,
                "limit": wanted.limit,
                "deadline_ms": wanted.deadline_ms,
                "context": wanted.context,
            },
            "slo_p99_ms": self.slo_p99_ms,
            "passed": self.passed(runs),
            "highest_rate": self._highest(runs) if self.kind == Kind.SEARCH else None,
            "runs": [
                run.measured.summary(run.load)
                | {"arrivals": run.load.arrivals, "seed": run.load.seed, "notes": [*run.notes().values()]}
                for run in runs
            ],
        }

    def _highest(self, runs: Sequence[Judged]) -> float | None:
        assert self.slo_p99_ms is not None
        return search.highest(search.steps(runs), self.slo_p99_ms)

    def _found(self, runs: Sequence[Judged]) -> str:
        highest, objective = self._highest(runs), f"p99 ≤ {self.slo_p99_ms:g} ms with no error"
        if highest is None:
            return f"[bold red]No rate keeps {objective}.[/]"
        most = "" if any(run.load.rate > highest for run in runs) else ", and no higher one was tried"
        chance = "" if any(run.load.rate == highest and run.carried for run in runs) else "*"
        return f"[bold]{highest:g}{chance} requests/s[/] is the highest rate that keeps {objective}{most}."


def verdict(judged: Judged) -> str:
    """What to make of one of several runs, in few words; one of several windows is a step of a search."""
    late = "generator late" if judged.hides_service else None
    if judged.load.windows > 1 and judged.slo_p99_ms is not None:
        fault = search.Step.of(judged).fault(judged.slo_p99_ms)
        chance = "" if judged.carried or judged.measured.failed else "*"
        return f"{(late or fault) if fault else 'holds'}{chance}"
    return late or ("overloaded" if judged.overload else "p99 missed" if judged.missed else "")


def _one(console: Console, judged: Judged) -> None:
    load, measured = judged.load, judged.measured
    console.print(
        f"asked      {load.rate:g} requests/s for {load.duration_s:g} s, {load.arrivals}: "
        f"{measured.planned:,} requests\n"
        f"achieved   {measured.in_time / load.duration_s:.1f} requests/s; {measured.answered:,} answered, "
        f"{measured.failed:,} failed",
        highlight=False,
    )
    if measured.errors:
        console.print(f"[red]errors     {escape(', '.join(counted(measured.errors)))}[/]", highlight=False)
    console.print(f"versions   {escape(', '.join(counted(measured.versions)) or 'none')}", highlight=False)
    cpu = ", ".join(f"{share:.0%}" for share in measured.cpu)
    console.print(f"generator  {cpu} of a core", highlight=False)
    table = Table("milliseconds", *(_name(at) for at in COLUMNS))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("latency", *_cells(measured.latency), style="bold", end_section=not measured.failures.count)
    if measured.failures.count:
        table.add_row("failed after", *_cells(measured.failures), style="red", end_section=True)
    for stage, durations in measured.stages.items():
        table.add_row(f"service: {escape(stage)}", *_cells(durations))
    table.add_section()
    table.add_row("wait for a connection", *_cells(measured.queueing), style="dim")
    table.add_row("generator's lateness", *_cells(measured.lateness), style="dim")
    console.print(table)
    _notes(console, judged.notes().values())


def _steps(console: Console, runs: Sequence[Judged]) -> None:
    """A line a run."""
    heads = ("asked", "achieved", *map(_name, STEP_COLUMNS), "errors", "late", "")
    table = Table(*heads, title=STEP_TITLE, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in table.columns[:-1]:
        column.justify, column.no_wrap = "right", True
    for judged in runs:
        measured = judged.measured
        table.add_row(
            f"{judged.load.rate:g}",
            f"{measured.in_time / judged.load.duration_s:.1f}",
            *(_cell(measured.latency, at) for at in STEP_COLUMNS),
            f"{measured.failed:,}",
            _cell(measured.lateness, 99),
            verdict(judged),
        )
    console.print(table)
    console.print(
        f"* fewer than {BEYOND} samples lie beyond: chance. late: the generator, at p99.", highlight=False
    )


def _together(runs: Sequence[Judged]) -> list[str]:
    """Notes of several runs: of those about the same the first, and the rates of the others."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for run in runs:
        for about, note in run.notes().items():
            found[about].setdefault(f"{run.load.rate:g}", note)
    told = []
    for notes in found.values():
        (first, note), *others = notes.items()
        likewise = f" Likewise at {', '.join(rate for rate, _ in others)}." if others else ""
        told.append(f"At {first} requests/s: {note}{likewise}")
    return told


def _notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"[yellow]![/] {escape(note)}", highlight=False)


def _name(percentile: float) -> str:
    return "max" if percentile == 100 else f"p{percentile:g}"


def _cells(durations: Durations) -> list[str]:
    return [_cell(durations, at) for at in COLUMNS]


def _cell(durations: Durations, percentile: float) -> str:
    """A figure; marked where too few samples carry it."""
    ms = durations.ms(percentile)
    if math.isnan(ms):
        return "-"
    shown = f"{ms:,.0f}" if ms >= 1_000 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"
    return shown if percentile == 100 or durations.carries(percentile) else f"{shown}*"
