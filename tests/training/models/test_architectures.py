"""Every architecture through the trainer: it learns, and its bundle agrees with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training import worlds
from training.export import export
from training.fit import best_of

ESMM = {"name": "esmm", "embedding": 4, "hidden": [16, 8]}
FUNNEL = (
    worlds.TASKS[0],
    {"name": "like_given_click", "label": "like", "mask": "click", "weight": 0},
    {"name": "like"},
    worlds.TASKS[2],
)
MODELS: dict[str, dict[str, Any]] = {
    "ple": {"name": "ple", "embedding": 4, "levels": [[16, 8], [8]], "tower_hidden": [8]},
    "cgc": {"name": "ple", "embedding": 4, "specific_experts": 2, "levels": [[16]], "gate_hidden": [8]},
    "omoe": {"name": "omoe", "embedding": 4, "experts": 3, "expert_hidden": [16], "tower_hidden": [8]},
    "single_task": {"name": "single_task", "embedding": 4, "hidden": [16, 8]},
    "esmm": ESMM,
    "division": ESMM | {"variant": "division"},
}
"""those of `tests/training/conftest.py` go through all of export's own tests"""
EXPORTED = [
    "ple",
    "esmm",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("cgc", "omoe", "single_task", "division")),
]


def sections(name: str) -> dict[str, Any]:
    """Of a config of this model; ESMM has a funnel and a task beside it."""
    tasks = FUNNEL if MODELS[name]["name"] == "esmm" else worlds.TASKS
    return worlds.QUICK | {"model": MODELS[name], "tasks": tasks}


@pytest.mark.parametrize("name", MODELS)
def test_it_learns(name: str) -> None:
    """Trained as a config says, it foretells its tasks better than the best constants."""
    made = worlds.prepare(worlds.log(4000), **sections(name))
    assert best_of(made.fit(made.model())).combined < 0.96


@pytest.mark.parametrize("name", EXPORTED)
def test_its_bundle_agrees_with_torch(name: str, tmp_path: Path) -> None:
    """A bundle is written, as export does only where torch and all graphs agree."""
    trained = worlds.prepare(worlds.log(400), **sections(name)).trained()
    assert export(trained, tmp_path, "v1").exists()
