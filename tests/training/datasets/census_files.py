"""A folder of census-income's files, a few rows each, in the original's format."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.datasets.census import COLUMNS, NUMBERS

TRAIN, TEST = "census-income.data.gz", "census-income.test"


def person(**values: int | str) -> str:
    """A line as the original has it: comma and space, and a full stop behind the income."""
    row: dict[str, int | str] = {name: 0 if name in NUMBERS else " Not in universe" for name in COLUMNS}
    row |= {
        "det_ind_code": 0,
        "det_occ_code": 0,
        "instance_weight": "1700.09",
        "year": 95,
        "income": "- 50000",
    }
    return ", ".join(str({**row, **values}[column]).strip() for column in COLUMNS) + "."


def write(path: Path, rows: Sequence[str]) -> None:
    """A file without a header, gzipped where its name says so."""
    content = "\n".join([*rows, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_census(folder: Path, people: int = 240) -> Path:
    """A whole folder: three in four people train; income depends on the job, marriage on the age."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(people):
        age, job = int(rng.integers(16, 80)), int(rng.integers(4))
        rows.append(
            person(
                age=age,
                det_ind_code=10 + job,
                det_occ_code=20 + job,
                major_ind_code=f"Industry {job}",
                major_occ_code=f"Occupation {job}",
                mig_chg_msa="?" if rng.random() < 0.5 else "Nonmover",
                capital_gains=0 if rng.random() < 0.8 else int(rng.integers(1, 9999)),
                income="50000+" if rng.random() < 0.1 + 0.2 * job else "- 50000",
                marital_stat="Never married" if rng.random() < 1 - age / 80 else "Widowed",
            )
        )
    write(folder / TRAIN, rows[: people * 3 // 4])
    write(folder / TEST, rows[people * 3 // 4 :])
    return folder
