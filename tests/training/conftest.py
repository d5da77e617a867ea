"""What holds for every test of the trainer, and bundles that cost seconds to export, made once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from service.bundle.store import verify
from tests.training import worlds
from tests.training.worlds import Exported
from training.export import export


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The weights that a test draws do not depend on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=[worlds.MMOE, worlds.SHARED_BOTTOM], ids=["mmoe", "shared_bottom"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle of each architecture, with every kind of feature."""
    network: dict[str, Any] = request.param
    trained = worlds.prepare(worlds.log(), model=network).trained()
    folder = export(trained, tmp_path_factory.mktemp(network["name"]), "v1")
    return Exported(trained, folder, verify(folder))
