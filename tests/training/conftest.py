"""What holds for every test of the trainer, and bundles that cost seconds to export, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch

from service.bundle.store import verify
from tests.training import worlds
from tests.training.operators import operators_read_once
from tests.training.worlds import Exported
from training.export import export


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The weights that a test draws do not depend on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _operators() -> Iterator[None]:
    """Graphs are made in two thirds of the time."""
    with operators_read_once():
        yield


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The bundle of an architecture; pytest itself would hold that of the last parameter alone."""
    networks: dict[str, dict[str, Any]] = {"mmoe": worlds.MMOE, "shared_bottom": worlds.SHARED_BOTTOM}

    @cache
    def once(name: str) -> Exported:
        trained = worlds.prepare(worlds.log(), model=networks[name]).trained()
        folder = export(trained, tmp_path_factory.mktemp(name), "v1")
        return Exported(trained, folder, verify(folder))

    return once


@pytest.fixture(scope="session", params=["mmoe", "shared_bottom"])
def exported(request: pytest.FixtureRequest, export_once: Callable[[str], Exported]) -> Exported:
    """A bundle of each architecture, with every kind of feature."""
    return export_once(request.param)
