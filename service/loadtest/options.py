"""The options of `rankserve loadtest`, each with its help, as types of the command's parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from service.loadtest.plan import Arrivals as Order


def _finite(value: float | None) -> float | None:
    """Refuse what is no number that a test could keep to."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


_IDS = 'a number of ids, from "0" on, or a file with an id a line'

Url = Annotated[str, typer.Argument(metavar="URL", help="The service, as http://127.0.0.1:8000.")]

Rate = Annotated[
    float,
    typer.Option(
        min=0.01, callback=_finite, help="Requests a second; --find-max and --sweep auto begin with it."
    ),
]
Duration = Annotated[float, typer.Option(min=0.1, callback=_finite, help="Seconds of every rate.")]
Arrivals = Annotated[Order, typer.Option(help="Random times, or equal distances.")]
Sweep = Annotated[str | None, typer.Option(metavar="R,R,…|auto", help="Several rates, one after another.")]
FindMax = Annotated[bool, typer.Option("--find-max", help="Find the highest rate that keeps the objective.")]
Objective = Annotated[
    float | None,
    typer.Option("--slo-p99-ms", min=0.001, callback=_finite, help="Objective of p99; 50 with --find-max."),
]

Candidates = Annotated[
    str,
    typer.Option(
        metavar="N|N:SHARE,…", help="Candidates a request, or sizes and their shares: 100:0.5,500:0.5."
    ),
]
Users = Annotated[
    str | None,
    typer.Option(metavar="N|FILE", help=f"Users: {_IDS}. Else as many as a synthetic world has, or 2,000."),
]
Items = Annotated[str | None, typer.Option(metavar="N|FILE", help=f"Items, the most popular first: {_IDS}.")]
Zipf = Annotated[
    float,
    typer.Option(
        min=0, max=10, callback=_finite, help="Exponent of the items' popularity; 0 draws all alike."
    ),
]
Ranker = Annotated[str, typer.Option(help="The ranker to ask.")]
Tasks = Annotated[bool, typer.Option("--tasks", help="Ask for every task's score, too.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask for the best so many only.")]
Deadline = Annotated[
    float | None,
    typer.Option(min=0.1, callback=_finite, help="Of a request, which the service holds to."),
]
Context = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=VALUE", help="Of every request, as hour=20 or tab=feed; may be given again."),
]

Timeout = Annotated[
    float,
    typer.Option(min=0.1, callback=_finite, help="Seconds from when a request is due until it is given up."),
]
Connections = Annotated[int, typer.Option(min=1, help="At most, of all processes together.")]
InFlight = Annotated[
    int, typer.Option(min=1, help="Requests due and not over, at most; one more is not sent.")
]
Processes = Annotated[int, typer.Option(min=1, max=64, help="Generators; each needs a core for itself.")]
Seed = Annotated[int, typer.Option(min=0, help="Of arrivals, users and candidates.")]

Chart = Annotated[
    Path | None,
    typer.Option(metavar="DIR", file_okay=False, help="Draw loadtest.png and loadtest.html into it."),
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Write everything as JSON.")
]
