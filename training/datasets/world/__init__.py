"""A synthetic world of short videos whose truth is known: `World` knows the probability of every event."""

from training.datasets.world.config import SyntheticConfig
from training.datasets.world.truth import World

__all__ = ["SyntheticConfig", "World"]
