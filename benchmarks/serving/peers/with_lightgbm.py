"""LightGBM scoring candidates: a booster a task, as many rankers are today. No server, no features, no JSON.

    python -m benchmarks.serving.peers.with_lightgbm [--candidates 500]

Six boosters of 200 trees with 31 leaves over 32 numbers, grown on made-up rows; prints the median time in
which all six score the candidates of one request.
"""

from __future__ import annotations

import argparse
import time

import lightgbm
import numpy as np

TASKS, FIELDS, TREES, LEAVES = 6, 32, 200, 31
ROWS = 2_000
RUNS = 40


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=500, help="[%(default)s]")
    candidates = parser.parse_args().candidates
    boosters = grown(np.random.default_rng(0))
    rows = np.random.default_rng(1).normal(size=(candidates, FIELDS))
    for threads in (1, 2):
        taken = []
        for _ in range(RUNS):
            started = time.perf_counter()
            for booster in boosters:
                booster.predict(rows, num_threads=threads)
            taken.append(1e3 * (time.perf_counter() - started))
        print(
            f"LightGBM {lightgbm.__version__} alone, {TASKS} boosters of {TREES} trees with {LEAVES} leaves:"
            f" {candidates} candidates in {np.median(taken):.2f} ms by {threads} thread(s)"
        )


def grown(random: np.random.Generator) -> list[lightgbm.Booster]:
    """A booster a task."""
    rows = random.normal(size=(ROWS, FIELDS))
    settings = {"objective": "binary", "num_leaves": LEAVES, "min_data_in_leaf": 5, "verbose": -1}
    boosters = []
    for _ in range(TASKS):
        labels = rows @ random.normal(size=FIELDS) + random.normal(size=ROWS) > 0
        data = lightgbm.Dataset(rows, labels.astype(np.float64))
        boosters.append(lightgbm.train({**settings, "num_threads": 2}, data, num_boost_round=TREES))
    return boosters


if __name__ == "__main__":
    main()
