"""What a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "numpy", "torch", "fastapi", "uvicorn", "pydantic")


def describe() -> str:
    """Processor, cores, Python, library versions and the command, a line each."""
    versions = [f"{name} {version}" for name in LIBRARIES if (version := _version(name))]
    return "\n".join(
        [
            f"machine: {_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}",
            f"versions: Python {platform.python_version()}, {', '.join(versions)}",
            f"command: python {' '.join(sys.orig_argv[1:])}",
        ]
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
