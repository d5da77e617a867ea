"""The peers by name: how each is started, and the environment it runs in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS_MODULE = "benchmarks.serving.peers"
COMMON = ("numpy>=2.4,<3", "onnxruntime>=1.31,<2", "orjson>=3.13,<4")
INSTALL_LIMIT_S = 1200.0
SCORING_LIMIT_S = 300.0
MARK = ".installed"
ROOT = Path(__file__).parents[3]


class NotInstalled(Exception):
    """A peer cannot be had on this machine; the message is the end of what pip said."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A framework.

    Attributes:
        packages: beside `COMMON`.
        command: the environment's `bin` folder, a port and whether to gather batches -> what to run.
        batches: can it gather requests?
        settings: environment variables of its own.
    """

    packages: tuple[str, ...]
    command: Callable[[Path, int, bool], Sequence[str]]
    batches: bool = True
    settings: tuple[tuple[str, str], ...] = ()


def _fastapi(bin_: Path, port: int, batching: bool) -> Sequence[str]:
    factory = f"{PEERS_MODULE}.with_fastapi:create"
    options = ["--factory", "--workers", "2", "--loop", "uvloop", "--http", "httptools"]
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [f"{bin_}/uvicorn", factory, *options, *quiet, "--host", "127.0.0.1", "--port", str(port)]


def _litserve(bin_: Path, port: int, batching: bool) -> Sequence[str]:
    return [f"{bin_}/python", "-m", f"{PEERS_MODULE}.with_litserve", str(port)]


def _mosec(bin_: Path, port: int, batching: bool) -> Sequence[str]:
    address = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    return [f"{bin_}/python", "-m", f"{PEERS_MODULE}.with_mosec", *address]


def _bentoml(bin_: Path, port: int, batching: bool) -> Sequence[str]:
    service = f"{PEERS_MODULE}.with_bentoml:{'Batched' if batching else 'Single'}"
    return [f"{bin_}/bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port)]


def _ray(bin_: Path, port: int, batching: bool) -> Sequence[str]:
    return [f"{bin_}/python", "-m", f"{PEERS_MODULE}.with_ray", str(port)]


PEERS = {
    "fastapi": Peer(("fastapi", "uvicorn", "uvloop", "httptools"), _fastapi, batches=False),
    "litserve": Peer(("litserve", "torch>=2.13,<3"), _litserve),
    "mosec": Peer(("mosec",), _mosec),
    "bentoml": Peer(("bentoml",), _bentoml, settings=(("BENTOML_DO_NOT_TRACK", "True"),)),
    "ray": Peer(
        ("ray[serve]",),
        _ray,
        settings=(("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"), ("RAY_USAGE_STATS_ENABLED", "0")),
    ),
}


TREES = ("lightgbm",)
"""packages of `with_lightgbm`, which is no server"""


def trees(folder: Path, candidates: int) -> str:
    """What LightGBM takes to score so many candidates, as lines. NotInstalled where it cannot be had."""
    python = prepared(folder, "lightgbm", TREES) / "python"
    command = [str(python.absolute()), "-m", f"{PEERS_MODULE}.with_lightgbm", "--candidates", str(candidates)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=SCORING_LIMIT_S
    )
    return done.stdout.strip()


def prepared(folder: Path, name: str, packages: Sequence[str]) -> Path:
    """The `bin` folder of an environment with these packages; made where there is none.

    Raises:
        NotInstalled: pip cannot install them.
    """
    home = folder / name
    if not (home / MARK).exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [f"{home}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            done = subprocess.run(
                [*install, *COMMON, *packages], capture_output=True, text=True, timeout=INSTALL_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"pip was not done after {INSTALL_LIMIT_S:g} s") from None
        if done.returncode:
            raise NotInstalled("\n".join(done.stderr.strip().splitlines()[-3:]))
        (home / MARK).touch()
    return home / "bin"


def versions(bin_: Path, names: Sequence[str]) -> str:
    """Versions of packages in an environment, as ``name 1.2, other 3``."""
    code = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    command = [f"{bin_}/python", "-c", code, *names]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return ", ".join(f"{name} {version}" for name, version in zip(names, found, strict=True))
