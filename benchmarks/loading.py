"""How long do requests wait for a version that is loaded, and freed, beside them?

    python -m benchmarks.loading --models models --version 20240511-1
    python -m benchmarks.loading --users 50000 --listed 50

Loads a bundle in a thread and closes it again, while an event loop wakes every half millisecond; prints how
late it woke at worst, for each of the two and for a loop with nothing beside it. Without a bundle, tables and
vocabularies of a made-up catalogue are loaded: so many users, each with a sequence of so many items.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import numpy as np
import uvloop

from benchmarks.machine import describe
from service.bundle.columns import Lists, strings
from service.bundle.encoder import Encoder
from service.bundle.kinds import Fitted, VocabularySpec
from service.bundle.schema import FeatureSchema
from service.bundle.snapshot import read_table, read_vocabularies, write_table, write_vocabularies
from service.bundle.table import Table
from service.bundle.vocabulary import Vocabulary
from service.engine import EngineOptions
from service.model import Model, ModelOptions
from service.worker import SWITCH_INTERVAL_S

T = TypeVar("T")

WAKE_S = 0.0005
QUIET_S = 2.0
SCHEMA = FeatureSchema.model_validate(
    {
        "features": [
            {"kind": "categorical", "name": "video", "source": "item.item_id"},
            {"kind": "sequence", "name": "recent", "source": "user.recent", "share": "video"},
        ]
    }
)


class Closable(Protocol):
    """An encoder or a model."""

    def close(self) -> None:
        """Give the memory back."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, help="folder of the bundles")
    parser.add_argument("--version", help="the bundle")
    parser.add_argument("--items", type=int, default=100_000, help="made up [%(default)s]")
    parser.add_argument("--users", type=int, default=20_000, help="made up [%(default)s]")
    parser.add_argument("--listed", type=int, default=30, help="items a made-up user [%(default)s]")
    options = parser.parse_args()
    if (options.models is None) != (options.version is None):
        parser.error("give both --models and --version, or neither")
    print(describe())
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as every worker does
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as engine:
        if options.models:
            model = ModelOptions(EngineOptions(provider="cpu"))
            uvloop.run(measure(lambda: Model.load(options.models / options.version, model, engine)))
        else:
            write(Path(folder), options.items, options.users, options.listed)
            uvloop.run(measure(lambda: read(Path(folder), options.items)))


async def measure(load: Callable[[], Closable]) -> None:
    """Print how late the loop wakes while nothing, a load, and a close goes on beside it."""
    await stalls("nothing", lambda: time.sleep(QUIET_S))
    loaded = await stalls("load", load)
    await stalls("close", loaded.close)


async def stalls(name: str, work: Callable[[], T]) -> T:
    """Do work in a thread, and print the worst that the event loop saw of it."""
    late: list[float] = []
    started = time.perf_counter()
    task = asyncio.create_task(asyncio.to_thread(work))
    while not task.done():
        due = time.perf_counter() + WAKE_S
        await asyncio.sleep(WAKE_S)
        late.append(1e3 * (time.perf_counter() - due))
    took = time.perf_counter() - started
    worst = ", ".join(f"{ms:.1f}" for ms in sorted(late, reverse=True)[:3])
    print(f"{name:8} {took:6.2f} s   latest wake-ups {worst} ms   over 5 ms: {sum(ms > 5 for ms in late)}")
    return await task


def write(folder: Path, items: int, users: int, listed: int) -> None:
    """Tables and vocabularies of a made-up catalogue."""
    ids = strings(map(str, range(items)))
    drawn = ids[np.random.default_rng(0).integers(0, items, users * listed)]
    recent = Lists(drawn, np.arange(0, len(drawn) + 1, listed))
    write_table(folder / "items.npz", Table("item", [ids], {}))
    write_table(folder / "users.npz", Table("user", [strings(map(str, range(users)))], {"recent": recent}))
    write_vocabularies(folder / "vocabulary.npz", {"video": Vocabulary(ids)})


def read(folder: Path, items: int) -> Encoder:
    """The encoder of what was written."""
    fitted = Fitted(vocabularies={"video": VocabularySpec(rows=items + 1)})
    schema = SCHEMA.model_copy(update={"fitted": fitted})
    tables = {
        "user": read_table(folder / "users.npz", "user"),
        "item": read_table(folder / "items.npz", "item"),
    }
    return Encoder(schema, read_vocabularies(folder / "vocabulary.npz", schema), tables)


if __name__ == "__main__":
    main()
