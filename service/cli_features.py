"""`rankserve features load`: the tables of a version, or rows from a file, into the feature store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.bundle.kinds import Name
from service.bundle.snapshot import read_table, table_file
from service.bundle.store import verify
from service.errors import InvalidRequest, RankserveError
from service.features.store import Row, RowKey
from service.options import Models, option, settings
from service.settings import Settings
from service.versions import Versions
from service.wire import FeatureRow

BATCH = 500
"""Rows in a round trip."""

Rows = Iterator[tuple[RowKey, Row]]
Source = Annotated[
    str,
    typer.Argument(
        metavar="VERSION|FILE.jsonl",
        help='A version, for its tables; or a file of rows, {"table": …, "key": …, "fields": {…}} a line.',
    ),
]
Only = Annotated[list[str] | None, typer.Option("--table", help="This table alone; may be given again.")]


class Line(FeatureRow):
    """A line of a file."""

    table: Name


LINE = TypeAdapter(Line)


def load(
    source: Source,
    redis: Annotated[str | None, option("redis")] = None,
    models: Models = None,
    table: Only = None,
) -> None:
    """Write features to Redis, each row whole. Services that read them follow within a second.

    Rows of a version are as old as the version: what was written since stays. Rows of a file are of now.
    """
    configured = settings(redis=redis, models=models)
    if configured.redis is None:
        raise RankserveError("name the Redis to write to with --redis URL, or in RANKSERVE_REDIS")
    path = Path(source)
    if path.suffix == ".jsonl":
        with _opened(path) as rows:
            _write(configured, _of_tables(rows, table), None)
    else:
        found = list(_of_tables(_of_version(Versions(configured.models).folder(source)), table))
        _write(configured, iter(found), len(found))


def _write(configured: Settings, rows: Rows, total: int | None) -> None:
    """Write rows in batches, and say how many of which table."""
    seen: Counter[str] = Counter()

    async def write(told: Callable[[int], None]) -> int:
        # Imported here: the other commands do without the client of Redis.
        from service.features.redis import RedisFeatureStore, RedisOptions

        assert configured.redis is not None
        options = RedisOptions(prefix=configured.redis_prefix)
        store, written = RedisFeatureStore(configured.redis.get_secret_value(), options), 0
        try:
            while batch := dict(islice(rows, BATCH)):
                written += await store.put(batch)
                seen.update(key[0] for key in batch)
                told(len(batch))
        finally:
            await store.close()
        return written

    started = time.perf_counter()
    with _progress(total) as told:
        written = asyncio.run(write(told))
    if not seen:
        raise RankserveError("there is no row to load; is --table spelt as in the bundle?")
    tables = ", ".join(f"{name} {count:,}" for name, count in sorted(seen.items()))
    kept = seen.total() - written
    typer.echo(
        f"loaded {written:,} of {seen.total():,} rows ({tables}) in {time.perf_counter() - started:.1f} s"
        + (f"; {kept:,} stay as they were, written later than these" if kept else "")
    )


def _of_version(folder: Path) -> Rows:
    """Every row of every table of a bundle. Raises BundleError where it is not sound."""
    manifest = verify(folder)
    stamp_ms = int(datetime.fromisoformat(manifest.created).timestamp() * 1e3)
    for name in ("user", "item", *manifest.features.tables):
        table = read_table(folder / table_file(name), name)
        for at, key in enumerate(zip(*table.keys, strict=True)):
            fields = {field: column.at(at) for field, column in table.columns.items()}
            yield (name, *key), Row(stamp_ms, fields)


@contextmanager
def _opened(path: Path) -> Iterator[Rows]:
    """The rows of a file; reading raises InvalidRequest with the line that is wrong."""
    stamp_ms = time.time_ns() // 1_000_000

    def rows(lines: Iterable[bytes]) -> Rows:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                read = LINE.validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                at = ".".join(map(str, first["loc"])) or "line"
                raise InvalidRequest(f"{path.name}:{number}: {at}", first["msg"]) from None
            yield (read.table, *read.key), Row(stamp_ms, read.fields)

    try:
        with path.open("rb") as lines:
            yield rows(lines)
    except OSError as error:
        raise RankserveError(f"{path}: {error.strerror}") from None


def _of_tables(rows: Rows, tables: Collection[str] | None) -> Rows:
    return rows if tables is None else (row for row in rows if row[0][0] in tables)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, where there is one; called with every so many rows that are written."""
    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("features", total=total)
        yield lambda rows: progress.advance(task, rows)
