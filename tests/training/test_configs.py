"""The configs that come with the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import load_config
from training.models.esmm import funnel

ROOT = Path(__file__).parents[2]
CONFIGS = sorted([*ROOT.glob("configs/*.toml"), *ROOT.glob("benchmarks/*.toml")])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_one(path: Path) -> None:
    """Every key is known, and tasks, model and formula fit together."""
    assert load_config(path).tasks


@pytest.mark.parametrize(("name", "steps"), [("kuairand_esmm", 1), ("synthetic_esmm", 2)])
def test_a_funnel_is_as_long_as_its_shop(name: str, steps: int) -> None:
    """From click to like, and from click by cart to purchase."""
    config = load_config(ROOT / f"configs/{name}.toml")
    assert len(funnel([task.spec() for task in config.tasks])) == steps


def test_kuairand_s_funnel_reads_what_kuairand_does() -> None:
    """Its features, tables and histories are a copy, which must not fall behind."""
    kuairand, funnelled = (
        load_config(ROOT / f"configs/{name}.toml") for name in ("kuairand", "kuairand_esmm")
    )
    assert funnelled.features == kuairand.features
    assert funnelled.aggregates == kuairand.aggregates
    assert funnelled.histories == kuairand.histories
