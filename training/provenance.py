"""What a bundle was made with: the state of the code, and the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

# onnxruntime is one library with two distributions; one of them is installed, or both.
DISTRIBUTIONS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


def commit_of(package: Path) -> str | None:
    """The commit that a package's code stands at, ``-dirty`` where tracked files differ from it.

    None where the package lies in no repository, or in that of another project, as an installed one may.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel", within=package)) != package.resolve().parent:
            return None
        return _git("describe", "--always", "--dirty", "--abbrev=40", within=package)
    except (OSError, subprocess.CalledProcessError):
        return None


def library_versions() -> dict[str, str]:
    """Versions of Python and, by distribution, of what is installed of `DISTRIBUTIONS`."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git(*arguments: str, within: Path) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=within)
    return done.stdout.strip()
