"""What a worker measures of itself all the while."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service import app
from tests.service.shelf import until
from tests.service.toy import ToyModel, toy


async def test_a_measurement_that_fails_is_logged_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however often it fails the same way; the next ones are taken."""
    monkeypatch.setattr(app, "WATCH_S", 0.005)
    tries: list[int] = []

    def full(rows: int) -> None:
        tries.append(rows)
        if len(tries) < 4:
            raise OSError("no space left on device")

    async with toy(tmp_path) as service:
        monkeypatch.setattr(service.serving.telemetry, "pending", full)
        await until(lambda: len(tries) > 5)
    assert caplog.text.count("cannot measure what serves") == 1


async def test_what_serves_is_asked_to_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version in memory, again and again, and never by the event loop's thread."""
    monkeypatch.setattr(app, "WATCH_S", 0.005)
    monkeypatch.setattr(app, "GROW_S", 0.01)
    threads: list[threading.Thread] = []
    monkeypatch.setattr(ToyModel, "grow", lambda _: threads.append(threading.current_thread()))
    async with toy(tmp_path):
        await until(lambda: len(threads) > 3)
    assert threading.current_thread() not in threads


@asynccontextmanager
async def looks_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch_s: float
) -> AsyncIterator[list[bool]]:
    """A service that looks after itself so often; an entry for each time that it counts."""
    monkeypatch.setattr(app, "WATCH_S", watch_s)
    looks: list[bool] = []
    async with toy(tmp_path) as service:
        monkeypatch.setattr(service.serving.telemetry, "settle", lambda: looks.append(True))
        yield looks


async def test_what_was_observed_is_counted_all_the_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other workers show it, too."""
    async with looks_of(tmp_path, monkeypatch, 0.005) as looks:
        await until(lambda: len(looks) > 3)


async def test_what_was_observed_is_counted_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after the last look is not lost."""
    async with looks_of(tmp_path, monkeypatch, 60) as looks:
        pass
    assert len(looks) == 1
