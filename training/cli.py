"""`ranktrain`: train a ranker from an impression log and export it as a bundle."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.bundle.errors import BundleError, FeatureError, FusionError
from service.bundle.manifest import Metrics
from training.config import ConfigError, load_config
from training.train import train

app = typer.Typer(
    help="Train a multi-task ranker from an impression log, and export it as a verified bundle.",
    no_args_is_help=True,
    add_completion=False,
)

ERRORS = (ConfigError, BundleError, FeatureError, FusionError, FloatingPointError, OSError)
"""what is the caller's to mend: a line, and no traceback"""


@app.callback()
def _group() -> None:
    """Keep `fit` a command of its own, though it is the only one."""


@app.command()
def fit(
    config: Annotated[Path, typer.Argument(help="TOML config of the run, e.g. configs/synthetic.toml.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the log; a synthetic world needs none.")
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder that the bundle goes to.")] = Path("models"),
    version: Annotated[str | None, typer.Option(help="Name of the version; the time by default.")] = None,
    seed: Annotated[
        int, typer.Option(help="Of weights and batches. A synthetic world has its own.", min=0, max=2**63 - 1)
    ] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Replace a value: train.epochs=2, tasks.buy.weight=0.5 …"),
    ] = None,
    metrics_json: Annotated[
        Path | None, typer.Option(help="Write the metrics to this file.", dir_okay=False)
    ] = None,
) -> None:
    """Train, evaluate on later days, export and verify one version."""
    console = Console(stderr=True)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    version = version or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    try:
        if metrics_json is not None and not metrics_json.parent.is_dir():
            raise FileNotFoundError(f"--metrics-json: there is no folder {metrics_json.parent}")
        made = train(load_config(config, set_ or ()), data, models, version, seed, console)
        console.rule(f"{version}: test days", align="left")
        console.print(*metrics_tables(made.metrics["test"]))
        if metrics_json is not None:
            written = {"version": version, **made.metrics}
            metrics_json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    except ERRORS as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    typer.echo(made.folder)


def metrics_tables(by_task: Mapping[str, Metrics]) -> Iterator[Table]:
    """Metrics as tables: one for all tasks that share theirs, upright for a task alone."""
    for names in dict.fromkeys(tuple(found) for found in by_task.values()):
        rows = {task: found for task, found in by_task.items() if tuple(found) == names}
        if len(rows) > 1:
            table = _table("task", *names)
            for task, found in rows.items():
                table.add_row(task, *map(_cell, found.values()))
        else:
            table = _table(*rows, "")
            for found in rows.values():
                for name, value in found.items():
                    table.add_row(name, _cell(value))
        yield table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def main() -> None:
    """Entry point."""
    app()
