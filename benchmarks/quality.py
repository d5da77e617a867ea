"""How well does a config predict, over several seeds?

    python -m benchmarks.quality --config configs/kuairand.toml --data DIR --keep .bench/kuairand-mmoe
    python -m benchmarks.quality --config configs/census.toml --data DIR --keep .bench/census

Trains and exports one version a seed, as `ranktrain fit` does, and prints of every task the mean of each test
metric with its standard deviation over the seeds. What was trained before is in the folder of `--keep`, and
is not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import describe

BINARY = ("auc", "gauc", "log_loss", "pcoc", "positives")
REGRESSION = ("mae", "mae_log1p", "correlation", "correlation_log1p")

Metrics = dict[str, dict[str, float | None]]
"""by task and name"""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="as ranktrain's")
    parser.add_argument("--data", type=Path, help="folder of the log; a synthetic world needs none")
    parser.add_argument("--set", action="append", default=[], help="as ranktrain's: key.path=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of training [%(default)s]")
    parser.add_argument("--keep", type=Path, required=True, help="folder of the versions and their metrics")
    options = parser.parse_args()
    print(describe())
    found = [metrics(options, seed) for seed in options.seeds]
    for part in ("validate", "test"):
        print(f"\n{part}, seeds {' '.join(map(str, options.seeds))}")
        print(table([each[part] for each in found]))


def metrics(options: argparse.Namespace, seed: int) -> dict[str, Metrics]:
    """Metrics of one seed, by part. Exits where training fails."""
    file: Path = options.keep / f"{seed}.json"
    if not file.exists():
        options.keep.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("ranktrain")), "fit", str(options.config)]
        command += ["--models", str(options.keep / "models"), "--version", f"seed-{seed}"]
        command += ["--seed", str(seed), "--metrics-json", str(file)]
        command += ["--data", str(options.data)] if options.data else []
        command += [part for override in options.set for part in ("--set", override)]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
    read: dict[str, Metrics] = json.loads(file.read_text(encoding="utf-8"))
    return read


def table(seeds: Sequence[Metrics]) -> str:
    """A line a task: mean ± standard deviation of what all seeds have."""
    lines = []
    for task, first in seeds[0].items():
        there = [name for name, value in first.items() if value is not None]
        names = [name for name in (*BINARY, *REGRESSION) if name in there] or there
        shown = []
        for name in names:
            values = np.array([seed[task][name] for seed in seeds], np.float64)
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 and values.std() else ""
            shown.append(
                f"{name} {values.mean():.6g}" if not spread else f"{name} {values.mean():.4f}{spread}"
            )
        if shown:
            lines.append(f"  {task:<16} {', '.join(shown)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
