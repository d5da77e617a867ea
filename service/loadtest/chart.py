"""Latency against offered load, as a picture and as a page that needs nothing but itself.

matplotlib is of the extra `loadtest`, and imported where it draws.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from service.loadtest.notes import Judged
from service.loadtest.report import verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ((50.0, "#4477aa", "o"), (99.0, "#cc6677", "s"), (99.9, "#aa4499", "^"))
"""Percentile, colour (told apart by those who see colours otherwise, too), marker."""
NAMES = ("rate", "achieved", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "errors", "")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "svg{width:100%;height:auto}table{border-collapse:collapse}"
    "td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}td:last-child{text-align:left}"
)


def write(folder: Path, runs: Sequence[Judged], title: str, about: str) -> list[Path]:
    """Write `loadtest.png` and `loadtest.html` into a folder, which is made where there is none.

    Args:
        folder: where to.
        runs: of several rates.
        title: one line.
        about: what was run, in a line or two.

    Raises:
        OSError: the folder cannot be written.
    """
    runs = sorted(runs, key=lambda judged: judged.load.rate)
    figure = draw(runs, title, about)
    folder.mkdir(parents=True, exist_ok=True)
    png, html = folder / "loadtest.png", folder / "loadtest.html"
    figure.savefig(png, dpi=150)
    html.write_text(page(figure, runs, title, about), "utf-8")
    return [png, html]


def draw(runs: Sequence[Judged], title: str, about: str) -> Figure:
    """Two panels over the offered rate: latencies, and what was achieved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    figure.suptitle(f"{title}\n{about}", fontsize=10)
    _latencies(above, runs)
    _achieved(below, runs)
    for axes in (above, below):
        axes.grid(True, which="major", color="#dddddd")
        axes.grid(True, which="minor", color="#f2f2f2")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def page(figure: Figure, runs: Sequence[Judged], title: str, about: str) -> str:
    """The chart as SVG, and the figures as a table."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    head = "".join(f"<th>{name}</th>" for name in NAMES)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _row(run))}</tr>" for run in runs)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1><p>{escape(about)}</p>{svg[svg.index('<svg') :]}"
        f"<table><tr>{head}</tr>{body}</table>"
        "<p>Open loop: latency counts from when a request was due. Rates are requests a second.</p></html>\n"
    )


def _latencies(axes: Axes, runs: Sequence[Judged]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for percentile, color, marker in LINES:
        known = [(run.load.rate, run.measured.latency) for run in runs if run.measured.latency.count]
        rates = [rate for rate, _ in known]
        ms = [latency.ms(percentile) for _, latency in known]
        axes.plot(rates, ms, marker=marker, color=color, label=f"p{percentile:g}", lw=1.8, ms=6)
        thin = [at for at, (_, latency) in enumerate(known) if not latency.carries(percentile)]
        axes.plot([rates[at] for at in thin], [ms[at] for at in thin], marker, color=color, mfc="white", ms=6)
    objective = next((run.slo_p99_ms for run in runs if run.slo_p99_ms is not None), None)
    if objective is not None:
        axes.axhline(objective, color="#444444", ls="--", lw=1, label=f"objective, p99 ≤ {objective:g} ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency [ms]")
    axes.legend(loc="upper left", frameon=False, title="hollow: too few samples", alignment="left")


def _achieved(axes: Axes, runs: Sequence[Judged]) -> None:
    rates = [run.load.rate for run in runs]
    axes.plot([0, max(rates)], [0, max(rates)], color="#999999", ls=":", lw=1.2, label="as asked")
    achieved = [run.measured.in_time / run.load.duration_s for run in runs]
    axes.plot(rates, achieved, "o-", color="#228833", lw=1.8, ms=5, label="answered in time")
    if over := [at for at, run in enumerate(runs) if run.overload]:
        beyond = ([rates[at] for at in over], [achieved[at] for at in over])
        axes.plot(*beyond, "o", color="#cc3311", ms=7, label="the service does not keep up")
    if any(run.measured.failed for run in runs):
        failed = [run.measured.failed / run.load.duration_s for run in runs]
        axes.plot(rates, failed, "x-", color="#222222", lw=1.2, label="failed")
    axes.set_xlim(0, 1.04 * max(rates))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("offered load [requests/s]")
    axes.set_ylabel("rate [requests/s]")
    axes.legend(loc="upper left", frameon=False)


def _row(run: Judged) -> list[str]:
    latency = run.measured.latency
    return [
        f"{run.load.rate:g}",
        f"{run.measured.in_time / run.load.duration_s:.1f}",
        *(f"{latency.ms(at):.2f}" for at in (50.0, 99.0, 99.9, 100.0)),
        str(run.measured.failed),
        verdict(run),
    ]
