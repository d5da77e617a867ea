"""How rare clicks and conversions are: the shift of their logits that gives the rates a config asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from training.datasets.world.config import SyntheticConfig
from training.datasets.world.population import Floats

FARTHEST: Final = 40.0
"""in logits; no rate that a float64 tells from 0 and 1 lies beyond it"""


def solve_shifts(config: SyntheticConfig, logits: Mapping[str, Floats]) -> dict[str, float]:
    """What to add to the logits of events, by event; nothing where the config names no rate.

    Conversion is P(buy | click) = P(cart | click)·P(buy | cart) over the clicks, and both of its steps get
    rarer alike, so that every rate can be had.

    Args:
        config: the rates.
        logits: ``[n]`` by event, of impressions like those of the log.
    """
    shifts: dict[str, float] = {}
    click, cart, buy = (logits[event] for event in ("click", "cart_given_click", "buy_given_cart"))
    if config.click_rate is not None:
        shifts["click"] = _root(config.click_rate, lambda shift: float(probability(click + shift).mean()))
    if config.conversion_rate is not None:
        clicked = probability(click + shifts.get("click", 0.0))

        def converted(shift: float) -> float:
            return float(np.average(probability(cart + shift) * probability(buy + shift), weights=clicked))

        shift = _root(config.conversion_rate, converted)
        shifts |= {"cart_given_click": shift, "buy_given_cart": shift}
    return shifts


def probability(logit: Floats) -> Floats:
    """σ(logit)."""
    probability: Floats = 1 / (1 + np.exp(-logit))
    return probability


def _root(rate: float, rate_at: Callable[[float], float]) -> float:
    """The shift where a rate that grows with it is as wanted, by halving to the last digit."""
    low, high = -FARTHEST, FARTHEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_at(middle) < rate else (low, middle)
    return (low + high) / 2
