"""What the demo can train on, and requests that fit it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True, slots=True)
class Log:
    """An impression log, as a client of the service knows it. Ids are numbers from 0."""

    config: Path
    versions: tuple[str, str]
    """What is trained from it."""
    context: Mapping[str, Any]
    users: int
    """There are at least so many."""
    items: int
    """There are at least so many."""

    def request(self, chance: random.Random, candidates: int) -> dict[str, Any]:
        """The body of a request to rank: a user and candidates drawn by `chance`, each candidate once."""
        return {
            "user_id": str(chance.randrange(self.users)),
            "context": dict(self.context),
            "candidates": [str(item) for item in chance.sample(range(self.items), candidates)],
        }


SYNTHETIC = Log(
    config=CONFIGS / "synthetic.toml",
    versions=("demo-1", "demo-2"),
    context={"hour": 20, "tab": "feed", "network": "wifi"},
    users=2_000,
    items=5_000,
)
KUAIRAND = Log(
    config=CONFIGS / "kuairand.toml",
    versions=("kuairand-1", "kuairand-2"),
    context={"hour": 20, "tab": 1},
    users=27_000,
    items=7_500,
)
