"""`rankserve loadtest`: from options to a measurement, to what is told of it, and an exit code."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import typer
from rich.console import Console

from service.loadtest import chart as charts
from service.loadtest import options, plan, preflight
from service.loadtest.client import Target
from service.loadtest.errors import LoadTestError
from service.loadtest.histogram import need
from service.loadtest.measure import Measure
from service.loadtest.notes import Judged
from service.loadtest.plan import Arrivals, Load, Mix, Requests, ids
from service.loadtest.processes import Generators, Setup
from service.loadtest.report import Kind, Report
from service.loadtest.run import Bounds

CANNOT, FAILED = 1, 3
"""Exit codes; 2 is typer's, for options."""
TERMINATED = 128 + signal.SIGTERM
"""As a shell has it of a command that SIGTERM ended."""
OBJECTIVE_MS = 50.0
"""Of --find-max, where it is given none."""


def loadtest(
    url: options.Url,
    rate: options.Rate = 50.0,
    duration: options.Duration = 30.0,
    arrivals: options.Arrivals = Arrivals.POISSON,
    find_max: options.FindMax = False,
    slo_p99_ms: options.Objective = None,
    sweep: options.Sweep = None,
    candidates: options.Candidates = "200",
    zipf: options.Zipf = 1.0,
    users: options.Users = None,
    items: options.Items = None,
    ranker: options.Ranker = "default",
    tasks: options.Tasks = False,
    limit: options.Limit = None,
    deadline_ms: options.Deadline = None,
    context: options.Context = None,
    timeout: options.Timeout = 10.0,
    connections: options.Connections = 32,
    in_flight: options.InFlight = 4_000,
    processes: options.Processes = 1,
    seed: options.Seed = 0,
    chart: options.Chart = None,
    json: options.Json = None,
) -> None:
    """Send a running service requests when they are due, whether or not it keeps up, and tell what came back.

    Latency counts from when a request was due, so that a service that stalls can't hide it.

    Examples:

    rankserve loadtest http://127.0.0.1:8000 --rate 100 --duration 60 --candidates 100:0.5,500:0.5

    rankserve loadtest http://127.0.0.1:8000 --find-max --slo-p99-ms 50 --duration 15

    rankserve loadtest http://127.0.0.1:8000 --sweep auto --chart charts

    Exit code: 1 where the test could not run; 3 where a request failed or the objective was missed: at one
    rate of a sweep (and auto leads beyond what the service can do), or at every rate of --find-max.
    \f
    Reason: a parameter is an option.
    """
    with _in_a_line(), _ended_in_order():
        rates = _rates(sweep)
        kind = _kind(find_max, rates)
        for library in ("hdrh",) if chart is None else ("hdrh", "matplotlib"):
            need(library)
        _check_places(json, chart)
        target, mix = Target.parse(url), Mix.parse(candidates)
        own_users, own_items, fields = _own(users), _own(items), plan.context(context or ())
        if processes > min(connections, in_flight):
            raise LoadTestError("a process needs a connection; lower --processes, or raise --connections")
        catalogue = asyncio.run(preflight.ready(target, ranker, timeout))
        requests = Requests(
            own_users or ids(str(catalogue.users)),
            own_items or ids(str(catalogue.items)),
            *(mix, zipf, ranker, tasks, limit, deadline_ms, fields),
        )
        requests.check()
        asyncio.run(preflight.try_one(target, requests, seed, timeout))
        slo = OBJECTIVE_MS if kind == Kind.SEARCH and slo_p99_ms is None else slo_p99_ms
        load = Load(rate, duration, arrivals, seed=seed)
        bounds = Bounds(connections // processes, in_flight // processes, timeout)
        setup = Setup(target, requests, bounds, processes, seed)
        with Generators(setup) as generators:
            runs = Measure(generators, load, slo, Console(stderr=True)).all(kind, rates)
        told = Report(setup, kind, slo)
        told.show(Console(), runs)
        _write(told, runs, json, chart)
    raise typer.Exit(0 if told.passed(runs) else FAILED)


@contextmanager
def _in_a_line() -> Iterator[None]:
    """What is the caller's to mend is one line, not a traceback."""
    try:
        yield
    except (LoadTestError, OSError) as error:
        typer.echo(f"rankserve: {error}", err=True)
        raise typer.Exit(CANNOT) from None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the generators, too, as Ctrl-C does. Only the main thread hears of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_places(json: Path | None, chart: Path | None) -> None:
    """Raise LoadTestError or OSError where what is found could not be written in the end."""
    if chart is not None:
        chart.mkdir(parents=True, exist_ok=True)
    for option, folder in (("--json", json and json.parent), ("--chart", chart)):
        if folder is not None and not os.access(folder, os.W_OK):
            raise LoadTestError(f"{option}: {folder} is no folder that can be written to")


def _write(told: Report, runs: Sequence[Judged], json: Path | None, chart: Path | None) -> None:
    """What was found, to the places that were checked."""
    if json is not None:
        json.write_bytes(orjson.dumps(told.json(runs), option=orjson.OPT_INDENT_2))
    if chart is not None:
        for file in charts.write(chart, runs, "Latency against offered load", told.about):
            typer.echo(f"wrote {file}", err=True)


def _kind(find_max: bool, rates: tuple[float, ...] | None) -> Kind:
    if find_max and rates is not None:
        raise LoadTestError("--find-max and --sweep are two tests; give one of them")
    return Kind.SEARCH if find_max else Kind.ONE if rates is None else Kind.SWEEP


def _own(given: str | None) -> list[str] | None:
    """The ids that the caller names, if any."""
    return None if given is None else ids(given)


def _rates(sweep: str | None) -> tuple[float, ...] | None:
    """None where there is no sweep; none of its own for `auto`."""
    if sweep is None or sweep == "auto":
        return None if sweep is None else ()
    try:
        rates = tuple(float(rate) for rate in sweep.split(","))
    except ValueError:
        rates = (0.0,)
    if not all(0 < rate < math.inf for rate in rates):
        raise LoadTestError(f"--sweep {sweep}: write rates, as 10,20,40, or auto")
    return rates
