"""wrk: the requests it sends, and what it measures. A closed loop: a connection asks again once answered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REQUESTS = 64
"""different ones of each size, sent in turn"""
SLACK_S = 30.0
"""after its time is up, wrk has so long to end"""

SCRIPT = """\
-- wrk -t 1 -c 8 -d 10 -s {name}.lua http://127.0.0.1:8000
-- Sends the requests of {name}.jsonl, which lies beside this file, in turn.
local json = {{["Content-Type"] = "application/json"}}
local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local requests, at = {{}}, 0

function init(args)
   for body in io.lines(folder .. "{name}.jsonl") do
      requests[#requests + 1] = wrk.format("POST", "/v1/rank", json, body)
   end
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\\n{{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "failed": %d}}\\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int
    """not answered, or with another status than 2xx or 3xx"""


def write(folder: Path, candidates: int, *, users: int, items: int, seed: int) -> Path:
    """Write ``rank-<candidates>.lua`` and ``.jsonl``: requests of users drawn, each of distinct items."""
    random = np.random.default_rng(seed + candidates)
    bodies = [
        {
            "user_id": f"u{random.integers(users)}",
            "candidates": [f"i{item}" for item in random.choice(items, candidates, replace=False)],
            "tasks": True,
        }
        for _ in range(REQUESTS)
    ]
    return write_bodies(folder, f"rank-{candidates}", bodies)


def write_bodies(folder: Path, name: str, bodies: Iterable[Mapping[str, Any]]) -> Path:
    """Write ``<name>.lua`` and, with the requests, ``<name>.jsonl``; the script's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(body)}\n" for body in bodies))
    script = folder / f"{name}.lua"
    script.write_text(SCRIPT.format(name=name))
    return script


def install() -> None:
    """Have wrk, from the system's packages where it is missing and may be installed.

    Raises:
        RuntimeError: it is missing, and cannot be installed.
    """
    if shutil.which("wrk"):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError("wrk is missing; install it with the system's packages")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "wrk"]):
        subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL, check=True)


def drive(script: Path, port: int, *, connections: int, seconds: float) -> Load:
    """Send a script's requests over so many connections for some seconds.

    Raises:
        RuntimeError: wrk failed, or nothing was answered.
    """
    how = ["-t", "1", "-c", str(connections), "-d", f"{seconds:.0f}s", "--timeout", "30s"]
    done = subprocess.run(
        ["wrk", *how, "-s", str(script), f"http://127.0.0.1:{port}"],
        capture_output=True,
        text=True,
        timeout=seconds + SLACK_S,
    )
    line = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not line.startswith("{"):
        raise RuntimeError(f"wrk failed:\n{done.stdout}{done.stderr}")
    load = Load(**json.loads(line))
    if load.failed >= load.requests:
        raise RuntimeError(f"nothing was answered with 200 in {seconds:g} s:\n{done.stdout}")
    return load
