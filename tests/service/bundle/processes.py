"""Processes beside the test's own that write to a models folder, are killed while they do, or have ended.

None is forked off the test's: that one has threads, of which a fork would take the locks and not the life.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service.bundle.deployment import DeployedRanker, Deployment, update
from service.bundle.manifest import Manifest
from service.bundle.store import write
from tests.service.bundle.sound import FILES, filling


def started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A function of this module, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pytest"])  # so that not every process imports them anew
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def count_up(models: Path, times: int) -> None:
    """Add one to the ranker's operation, over and over."""

    def change(deployed: Deployment) -> Deployment:
        present = deployed.rankers.get("default", DeployedRanker())
        return deployed.having("default", DeployedRanker(operation=present.operation + 1))

    for _ in range(times):
        update(models, change)


def write_for_ever(models: Path, prefix: str) -> None:
    """Add version after version."""
    for number in count():
        write(models, f"{prefix}-{number}", filling(f"{prefix}-{number}"))


def die_while_filling(models: Path, at: str) -> None:
    """Write a bundle and be killed once the file `at` is written."""

    def fill(folder: Path) -> Manifest:
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
            if name == at:
                os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    write(models, "v1", fill)
