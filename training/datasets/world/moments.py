"""When and where the synthetic world shows its videos: the context of an impression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.bundle.columns import Column, Numbers, Texts, Value, as_numbers, as_texts, column_of, strings
from service.bundle.errors import FeatureError
from training.datasets.world.population import Ints

TABS: Final = ("feed", "discover", "follow")
NETWORKS: Final = ("wifi", "5g", "4g")


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The contexts of impressions: arrays ``[n]``; `tab` and `network` are codes into the names above."""

    hour: Ints
    tab: Ints
    network: Ints
    position: Ints

    def columns(self) -> dict[str, Column]:
        """The context fields of a log."""
        return {
            "hour": Numbers(self.hour.astype(np.float64)),
            "tab": Texts(strings(TABS)[self.tab]),
            "network": Texts(strings(NETWORKS)[self.network]),
            "position": Numbers(self.position.astype(np.float64)),
        }

    @staticmethod
    def of(context: Mapping[str, Column | Value], n: int) -> Moments:
        """The moments that context fields describe; a single value holds for all; no position is position 0.

        Raises:
            FeatureError: a field is missing, or says what this world does not know.
        """
        return Moments(
            hour=_whole(context, "hour", n, most=23),
            tab=_codes(context, "tab", n, TABS),
            network=_codes(context, "network", n, NETWORKS),
            position=_whole({"position": 0, **context}, "position", n, most=10_000),
        )


def _column(context: Mapping[str, Column | Value], field: str, n: int) -> Column:
    value = context.get(field)
    column = value if isinstance(value, Column) else column_of([value] * n, f"context.{field}")
    if len(column) != n:
        raise FeatureError(f"context.{field}", f"has {len(column)} values for {n} pairs; give one or {n}")
    return column


def _whole(context: Mapping[str, Column | Value], field: str, n: int, most: int) -> Ints:
    numbers = as_numbers(_column(context, field, n), f"context.{field}")
    if not ((numbers >= 0) & (numbers <= most)).all():
        raise FeatureError(f"context.{field}", f"must be a number from 0 to {most}")
    return numbers.astype(np.int64)


def _codes(context: Mapping[str, Column | Value], field: str, n: int, names: tuple[str, ...]) -> Ints:
    code = dict(zip(names, range(len(names)), strict=True))
    values = as_texts(_column(context, field, n), f"context.{field}").tolist()
    if not code.keys() >= set(values):
        raise FeatureError(f"context.{field}", f"must be one of {', '.join(names)}")
    return np.array([code[value] for value in values], dtype=np.int64)
