"""A small CSV as configs/example_tabular.toml has it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

COLUMNS = (
    "seen_at", "member", "member_city", "listing", "category", "price", "device", "position", "clicked",
    "order_status",
)  # fmt: skip
LOG = "impressions.csv"


def impression(**values: object) -> dict[str, object]:
    """A row of the log."""
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {"seen_at": "2024-05-01T20:15:00", "member": "m1", "listing": "L1", "clicked": 0}
    return row | values


def write(path: Path, rows: Sequence[dict[str, object]], delimiter: str = ",") -> Path:
    """A CSV with the columns of its first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_log(folder: Path, impressions: int = 300) -> Path:
    """Two weeks of May; clicks depend on the listing, and some prices are missing."""
    rng = np.random.default_rng(0)
    rows = []
    for at in range(impressions):
        listing, click = int(rng.integers(12)), rng.random()
        clicked = int(click < 0.1 + 0.05 * listing)
        rows.append(
            impression(
                seen_at=f"2024-05-{1 + at * 14 // impressions:02}T{int(rng.integers(24)):02}:00:00",
                member=f"m{int(rng.integers(20))}",
                member_city=("Berlin", "Hamburg", "")[int(rng.integers(3))],
                listing=f"L{listing}",
                category=("shoes", "bags")[listing % 2],
                price="" if rng.random() < 0.1 else 10 + listing,
                device=("ios", "web")[int(rng.integers(2))],
                position=int(rng.integers(1, 4)),
                clicked=clicked,
                order_status=("paid", "open")[int(rng.integers(2))] if clicked else "",
            )
        )
    write(folder / LOG, rows)
    return folder
