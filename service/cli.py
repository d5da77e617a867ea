"""`rankserve`: serve, and look after versions from the command line.

Promoting works on the models folder alone, whether a service runs or not, as the operators' routes do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from service import cli_features, logs, promotion
from service.bundle.errors import BundleError, FusionError
from service.bundle.fusion import FusionFormula
from service.choice import choose
from service.cores import Cores
from service.errors import NotFollowed, RankserveError, SwapRefused
from service.loadtest.cli import loadtest
from service.machine import Machine, cores
from service.options import Models, option
from service.options import settings as configured
from service.promotion import Promoted
from service.settings import LogLevel, Provider, Settings
from service.supervisor import Supervisor, inherited, listen
from service.telemetry import Telemetry, forget_worker
from service.versions import Versions
from service.worker import run_worker

logger = logging.getLogger(__name__)

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
bundles = typer.Typer(no_args_is_help=True, help="Look at the bundles in the models folder.")
cli.add_typer(bundles, name="bundles")
cli.command()(loadtest)
features = typer.Typer(no_args_is_help=True, help="Look after the feature store.")
features.command()(cli_features.load)
cli.add_typer(features, name="features")


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[str, typer.Argument(help="Name of the bundle's folder.")]
PROOF_MIB = 64
"""of items' state, to prove a version with"""

RankerName = Annotated[str, typer.Option("--ranker", help="The ranker; one of a new name is made.")]


@cli.command()
def serve(
    models: Models = None,
    host: Annotated[str | None, option("host")] = None,
    port: Annotated[int | None, option("port")] = None,
    workers: Annotated[int | None, option("workers")] = None,
    redis: Annotated[str | None, option("redis")] = None,
    provider: Annotated[Provider | None, option("provider")] = None,
    log_level: Annotated[LogLevel | None, option("log_level")] = None,
) -> None:
    """Serve what is deployed in the models folder, until SIGTERM or Ctrl-C.

    Every other setting is a RANKSERVE_* variable: the README has them all.
    """
    settings = configured(
        models=models,
        host=host,
        port=port,
        workers=workers,
        redis=redis,
        provider=provider,
        log_level=log_level,
    )
    logs.configure(settings.log_level)
    _need_folder(settings)
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        raise RankserveError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    settings, workers = _chosen(settings)
    supervisor = Supervisor(
        [sys.executable, "-m", "service.cli", "worker"],
        sock,
        workers=workers,
        environment=settings.environment(),
        drain_limit_s=settings.drain_limit_s,
        on_death=forget_worker,
    )
    raise typer.Exit(asyncio.run(supervisor.run()))


@cli.command(hidden=True)
def worker() -> None:
    """One worker of a service; the supervisor starts it."""
    # Imported here: the supervisor, and `rankserve bundles`, do without onnxruntime and its memory.
    from service.api.rank import DirectRank
    from service.app import create_app

    place = inherited()
    settings = Settings()
    logs.configure(settings.log_level)
    app = create_app(settings, cores=Cores(place.tally, place.index, cores()))
    run_worker(
        DirectRank(app),
        place.sock,
        tally=place.tally,
        index=place.index,
        drain_grace_s=settings.drain_grace_s,
        on_drain=app.state.serving.drain,
        on_connections=app.state.serving.telemetry.connections,
    )
    if app.state.serving.registry.loading:
        # All requests are answered. The interpreter's own end would meet a thread within onnxruntime.
        logging.shutdown()
        os._exit(0)


@cli.command()
def promote(version: Version, ranker: RankerName = "default", models: Models = None) -> None:
    """Let a ranker serve with a version, once every live worker has loaded and verified it."""
    settings = configured(models=models)
    _need_folder(settings)
    _operate(
        promotion.promote(
            settings.models, ranker, version, check=_check(settings), timeout_s=settings.swap_timeout_s
        )
    )


@cli.command()
def rollback(ranker: RankerName = "default", models: Models = None) -> None:
    """Let a ranker serve with its previous version again."""
    settings = configured(models=models)
    _need_folder(settings)
    _operate(
        promotion.rollback(settings.models, ranker, check=_check(settings), timeout_s=settings.swap_timeout_s)
    )


@bundles.command("list")
def list_bundles(models: Models = None, json: AsJson = False) -> None:
    """Every version: what it is, and what the workers make of it."""
    found = Versions(configured(models=models).models).all()
    if json:
        _print_json([version.model_dump() for version in found])
        return
    rows = [
        (
            version.version,
            version.state,
            ", ".join(version.rankers),
            version.architecture or "",
            str(len(version.tasks)),
            f"{version.bytes / 2**20:.1f} MiB",
            version.created or "",
            version.problem or "",
        )
        for version in found
    ]
    _print_table(("version", "state", "rankers", "architecture", "tasks", "size", "created", "problem"), rows)


@bundles.command()
def show(version: Version, models: Models = None, json: AsJson = False) -> None:
    """What a version claims about itself."""
    detail = Versions(configured(models=models).models).one(version)
    if json:
        _print_json(detail.model_dump())
        return
    console = Console()
    console.print(f"[bold]{detail.version}[/]  {detail.architecture}, {detail.created}, {detail.state}")
    console.print(f"rankers: {', '.join(detail.rankers) or 'none'}   commit: {detail.commit or 'unknown'}")
    console.print(f"formula: {detail.fusion.model_dump_json(exclude_defaults=True)}", soft_wrap=True)
    _print_table(
        ("task", "kind", "event", "given", "unit"),
        [(task.name, task.kind, task.event, task.given or "", task.unit or "") for task in detail.task_specs],
    )
    _print_table(("feature", "kind", "scope"), [(one.name, one.kind, one.scope) for one in detail.features])
    for part, by_task in detail.metrics.items():
        names = list(dict.fromkeys(name for metrics in by_task.values() for name in metrics))
        rows = [(task, *(_number(metrics.get(name)) for name in names)) for task, metrics in by_task.items()]
        _print_table((part, *names), rows)


@bundles.command()
def verify(version: Version, models: Models = None, json: AsJson = False) -> None:
    """Prove a bundle as a worker would: checksums, graphs, golden scores. Exits with 1 where it fails."""
    settings = configured(models=models)
    Versions(settings.models).folder(version)
    problem = None
    try:
        _check(settings)(version, None)
    except BundleError as error:
        problem = str(error)
    if json:
        _print_json({"version": version, "sound": problem is None, "problem": problem})
    else:
        typer.echo(f"{version} is sound: checksums and golden scores agree" if problem is None else problem)
    raise typer.Exit(0 if problem is None else 1)


def main() -> None:
    """Run the command; what is the caller's to mend is one line, not a traceback."""
    try:
        cli()
    except (SwapRefused, NotFollowed) as error:
        reasons = "".join(f"\n  {worker}: {reason}" for worker, reason in error.reasons.items())
        sys.exit(f"rankserve: {error}{reasons}")
    except (RankserveError, BundleError, OSError) as error:
        sys.exit(f"rankserve: {error}")


def _chosen(settings: Settings) -> tuple[Settings, int]:
    """The settings with nothing left open, and how many workers that makes; says what was chosen, and why."""
    choice = choose(settings, Machine.here())
    for line in choice.lines:
        # To a person as it is; where the standard error is kept as a log, as a line of that.
        if sys.stderr.isatty():
            typer.echo(line, err=True)
        else:
            logger.info(line)
    return choice.settings, choice.workers


def _need_folder(settings: Settings) -> None:
    if not settings.models.is_dir():
        raise BundleError(f"there is no folder {settings.models}; name the models folder with --models")


def _check(settings: Settings) -> promotion.Check:
    """Loads a version, as a worker would, and lets it go again."""

    def check(version: str, formula: FusionFormula | None) -> None:
        from service.app import loader, proof

        # Its scores prove a version, whose whole catalogue would take as long as in a worker.
        small = settings.model_copy(update={"state_mib": PROOF_MIB})
        with ThreadPoolExecutor(1) as executor:
            try:
                proof(loader(small, executor, Telemetry()))(version, formula)
            except (BundleError, FusionError):
                raise
            except Exception as error:  # the process's edge: a bundle that breaks its runtime is not sound
                raise BundleError(f"{type(error).__name__}: {error}") from error

    return check


async def _until_signalled(operation: Coroutine[Any, Any, Promoted]) -> Promoted:
    """Cancel the operation at SIGTERM or SIGINT, so that it unstages; the next signal ends the process."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(operation)

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return await task


def _operate(operation: Coroutine[Any, Any, Promoted]) -> None:
    try:
        promoted = asyncio.run(_until_signalled(operation))
    except asyncio.CancelledError:
        raise RankserveError("stopped; what was staged is not any more, and what has moved stays") from None
    where = (
        f"{len(promoted.workers)} workers" if promoted.workers else "no worker lives; the next one serves it"
    )
    typer.echo(f"{promoted.ranker}: {promoted.version} ({where}; before: {promoted.previous or 'nothing'})")
    if promoted.behind:
        raise NotFollowed(promoted.ranker, promoted.version, promoted.behind)


def _print_json(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
