"""`rankserve features load`: the tables of a version, or rows from a file, into the feature store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
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


@dataclass(frozen=True, slots=True)
class Own:
    """Of a version's own tables: whose they are, when it was made, and how many rows they have."""

    version: str
    stamp_ms: int
    rows: int


@dataclass(slots=True)
class Loaded:
    """What became of rows.

    Attributes:
        tables: how many there were, by table.
        written: how many were written; where there was a later one, it stays.
        repeated: how many had a key that came before.
    """

    tables: Counter[str] = field(default_factory=Counter)
    written: int = 0
    repeated: int = 0

    def told(self, seconds: float) -> str:
        """All of it in a line."""
        total = self.tables.total()
        tables = ", ".join(f"{name} {count:,}" for name, count in sorted(self.tables.items()))
        parts = [f"loaded {self.written:,} of {total:,} rows ({tables}) in {seconds:.1f} s"]
        if kept := total - self.written:
            parts.append(f"{kept:,} stay as they were, written later than these")
        if self.repeated:
            parts.append(f"{self.repeated:,} have a key that came before: of these the last one holds")
        return "; ".join(parts)


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

    Rows of a file are of now, and beat the tables of every version. Rows of a version are as old as the
    version, what was written since stays; they carry its name, and no other version reads them.
    """
    configured = settings(redis=redis, models=models)
    if configured.redis is None:
        raise RankserveError("name the Redis to write to with --redis URL, or in RANKSERVE_REDIS")
    path = Path(source)
    if path.suffix == ".jsonl":
        with _opened(path) as lines:
            read = _of_lines(path.name, lines)
            loaded = _write(configured, (row for row in read if table is None or row[0][0] in table))
        if strange := set(table or ()) - loaded.tables.keys():
            raise RankserveError(f"{path.name} has no row of --table {', '.join(sorted(strange))}")
        if not loaded.tables:
            raise RankserveError(f"{path.name} has no row to load; a line of it is one")
        return
    folder = Versions(configured.models).folder(source)
    manifest = verify(folder)
    there = ("user", "item", *manifest.features.tables)
    if strange := set(table or ()) - set(there):
        raise RankserveError(
            f"{source} has no --table {', '.join(sorted(strange))}; it has {', '.join(there)}"
        )
    tables = [read_table(folder / table_file(name), name) for name in there if table is None or name in table]
    rows = (((known.name, *key), fields) for known in tables for key, fields in known.each())
    stamp_ms = int(datetime.fromisoformat(manifest.created).timestamp() * 1e3)
    _write(configured, rows, Own(manifest.version, stamp_ms, sum(map(len, tables))))


def _write(configured: Settings, rows: Rows, own: Own | None = None) -> Loaded:
    """Write a version's own rows, or rows of now, and say how many of which table."""
    started = time.perf_counter()
    with _progress(own.rows if own else None) as told:
        loaded = asyncio.run(_written(_store(configured), rows, own, told))
    if loaded.tables:
        typer.echo(loaded.told(time.perf_counter() - started))
    return loaded


async def _written(store: FeatureStore, rows: Rows, own: Own | None, told: Callable[[int], None]) -> Loaded:
    """Write rows in batches, in their order."""
    loaded, keys = Loaded(), set[int]()
    try:
        now_ms = await store.now_ms()
        stamp_ms, version = (own.stamp_ms, own.version) if own else (now_ms, None)
        if stamp_ms > now_ms:
            raise RankserveError(
                f"the version is of {(stamp_ms - now_ms) / 1e3:,.0f} s from now by the clock of Redis, and "
                "would hide what is written until then; set the clocks right, or wait"
            )
        for batch in _batches(rows):
            loaded.written += await store.put({key: Row(stamp_ms, batch[key], version) for key in batch})
            loaded.tables.update(key[0] for key in batch)
            if own is None:  # a table's keys are distinct
                before = len(keys)
                keys.update(map(hash, batch))
                loaded.repeated += len(batch) - (len(keys) - before)
            told(len(batch))
    finally:
        await store.close()
    return loaded


def _batches(rows: Rows) -> Iterator[dict[RowKey, Mapping[str, Value]]]:
    """Rows to write together: a key that comes again is written again, so that all of them are counted."""
    batch: dict[RowKey, Mapping[str, Value]] = {}
    for key, fields in rows:
        if len(batch) == BATCH or key in batch:
            yield batch
            batch = {}
        batch[key] = fields
    if batch:
        yield batch


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
