"""`rankserve features load`: the tables of a version, or rows from a file, into the feature store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.bundle.columns import Value
from service.bundle.kinds import Name
from service.bundle.snapshot import read_table, table_file
from service.bundle.store import verify
from service.errors import InvalidRequest, RankserveError
from service.features.store import FeatureStore, Row, RowKey
from service.options import Models, option, settings
from service.settings import Settings
from service.versions import Versions
from service.wire import FeatureRow

BATCH = 500
"""Rows in a round trip."""

Rows = Iterator[tuple[RowKey, Mapping[str, Value]]]
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
        with _opened(path) as lines:
            read = _of_lines(path.name, lines)
            rows = read if table is None else (row for row in read if row[0][0] in table)
            _write(configured, rows, None, None)
        return
    folder = Versions(configured.models).folder(source)
    manifest = verify(folder)
    names = [name for name in ("user", "item", *manifest.features.tables) if table is None or name in table]
    tables = [read_table(folder / table_file(name), name) for name in names]
    rows = (((known.name, *key), fields) for known in tables for key, fields in known.each())
    stamp_ms = int(datetime.fromisoformat(manifest.created).timestamp() * 1e3)
    _write(configured, rows, stamp_ms, sum(map(len, tables)))


def _write(configured: Settings, rows: Rows, stamp_ms: int | None, total: int | None) -> None:
    """Write rows of some time, or of now, in batches, and say how many of which table."""
    seen: Counter[str] = Counter()

    async def write(told: Callable[[int], None]) -> int:
        store, written = _store(configured), 0
        try:
            now_ms = await store.now_ms()
            of_ms = now_ms if stamp_ms is None else stamp_ms
            if of_ms > now_ms:
                raise RankserveError(
                    f"the version is of {(of_ms - now_ms) / 1e3:,.0f} s from now by the clock of Redis, and "
                    "would hide what is written until then; set the clocks right, or wait"
                )
            while batch := list(islice(rows, BATCH)):
                written += await store.put({key: Row(of_ms, fields) for key, fields in batch})
                seen.update(key[0] for key, _ in batch)
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


def _store(configured: Settings) -> FeatureStore:
    # Imported here: the other commands do without the client of Redis.
    from service.features.redis import RedisFeatureStore, RedisOptions

    assert configured.redis is not None
    options = RedisOptions(
        prefix=configured.redis_prefix, connect_timeout_s=configured.redis_connect_timeout_ms / 1e3
    )
    return RedisFeatureStore(configured.redis.get_secret_value(), options)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RankserveError(f"{path}: {error.strerror}") from None


def _of_lines(name: str, lines: Iterable[bytes]) -> Rows:
    """The rows of a file. Raises InvalidRequest with the line that is wrong."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read = LINE.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            at = ".".join(map(str, first["loc"])) or "line"
            raise InvalidRequest(f"{name}:{number}: {at}", first["msg"]) from None
        yield (read.table, *read.key), read.fields


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, where there is one; called with every so many rows that are written."""
    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("features", total=total)
        yield lambda rows: progress.advance(task, rows)
