"""Versions to load from a folder, and two workers that follow it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.operations import Workers, two_workers
from tests.service.shelf import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Four versions, which the first worker loads."""
    return Shelf(tmp_path, "v1", "v2", "v3", "v4")


@pytest.fixture
def other(tmp_path: Path) -> Shelf:
    """The same versions, as the second worker loads them."""
    return Shelf(tmp_path)


@pytest.fixture
async def workers(tmp_path: Path, shelf: Shelf, other: Shelf) -> AsyncIterator[Workers]:
    """Both serve v1."""
    async with two_workers(tmp_path, shelf, other) as both:
        yield both
