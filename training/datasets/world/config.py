"""The size and nature of a synthetic world."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator


class SyntheticConfig(BaseModel):
    """A world of users and short videos, and the log of its days. Its seed is not the seed of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["synthetic"] = "synthetic"
    seed: int = Field(default=7, ge=0)
    users: int = Field(default=3_000, ge=10, le=200_000)
    videos: int = Field(default=6_000, ge=100, le=1_000_000)
    authors: int = Field(default=500, ge=5, le=100_000)
    first_day: date = date(2024, 5, 1)
    days: int = Field(default=10, ge=1, le=366)
    impressions: int = Field(default=300_000, ge=1, le=50_000_000)
    slots: int = Field(default=10, ge=1, le=30)
    """impressions of a request, at positions 0, 1, …"""
    history: int = Field(default=40, ge=1, le=200)
    """most videos in a user's history"""
    exploration: float = Field(default=0.3, ge=0, le=1)
    """share of candidates that are shown regardless of taste"""
    latent: float = Field(default=0.1, ge=0, le=2)
    """deviation, in logits, of what no feature tells"""
    hidden_taste: float = Field(default=0.0, ge=0, le=4)
    """deviation, in logits, of a user's taste for each category that no feature tells and that moves click
    and conversion alike. Who clicks is then keener to buy than others, for reasons that nobody sees: what
    clicks teach of conversion does not hold for all impressions. At 0, features tell all they share."""
    missing: float = Field(default=0.05, ge=0, lt=1)
    """share of fan counts and lengths that the tables do not know"""
    click_rate: float | None = Field(default=None, gt=0, lt=1)
    """share of impressions that are clicked; the world's own unless given"""
    conversion_rate: float | None = Field(default=None, gt=0, lt=1)
    """share of clicks that end in a purchase; the world's own unless given"""

    @model_validator(mode="after")
    def _enough_videos(self) -> Self:
        least = 10 * max(self.slots, self.history)
        if self.videos < least:
            raise ValueError(
                f"videos: {self.videos} are too few for these slots and history; use {least} or more"
            )
        return self

    def stream(self, part: str) -> np.random.Generator:
        """The random numbers of one part of the world, the same whatever the other parts draw."""
        return np.random.default_rng([self.seed, *part.encode()])
