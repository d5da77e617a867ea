"""What a process may use of the machine it runs on: cores, memory, a GPU.

A container is given less than the machine has: by affinity, and by the limits of its control group and of
every group around that one, in both versions of Linux' interface. Where there are none, the machine's count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service import cuda

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is for this process and those it starts, together."""

    cores: int
    memory_bytes: int
    gpu: bool
    """of NVIDIA's, with its driver"""
    cuda: bool = False
    """there is a GPU, and what onnxruntime needs for it; whether it works shows when a version is loaded"""

    @staticmethod
    def here(root: Path = ROOT) -> Machine:
        """The machine that this process runs on; `root` is where its `/proc`, `/sys` and `/dev` lie."""
        gpu = (root / "dev/nvidiactl").exists()
        return Machine(cores(root), memory_bytes(root), gpu, gpu and cuda.usable())


def cores(root: Path = ROOT) -> int:
    """How many cores this process can keep busy at once; a quota of 1.5 is one. At least one."""
    # Not everywhere can a process be bound to some cores; where it can't, all are its own.
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [*_limits(root, "", "cpu.max"), *_limits(root, "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return max(1, min(affine, *(quota // period for quota, period in quotas if quota > 0), affine))


def memory_bytes(root: Path = ROOT) -> int:
    """How much memory this process and its neighbours in the control group may take together, in bytes."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_limits(root, "", "memory.max"), *_limits(root, "memory", "memory.limit_in_bytes")]
    return min(installed, *(limit for (limit,) in limits), installed)


def _limits(root: Path, controller: str, *files: str) -> Iterator[list[int]]:
    """The numbers in files of this process's group, and of each around it, where they are numbers.

    `controller` is "" for the second version of the interface, which has one tree for all.
    """
    for group in _groups(root, controller):
        with suppress(OSError, ValueError):  # no such file there, or `max`: no limit
            yield [int(word) for file in files for word in (group / file).read_text().split()]


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and of those around it, the innermost first."""
    tree = root / "sys/fs/cgroup" / controller
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                # A container may see its own group as the whole tree, under a path that is not in it.
                group = tree / path.strip("/")
                yield from (group, *(outer for outer in group.parents if outer.is_relative_to(tree)))
