"""What a bundle says of the code and the libraries that made it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from training.provenance import commit_of, library_versions


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody; its output."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a package at the top of a repository with one commit."""
    package = tmp_path / "training"
    package.mkdir()
    (package / "code.py").write_text("one\n", encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    return package


def test_the_commit_is_that_of_the_code(package: Path) -> None:
    """Whole, and marked where the files are others."""
    head = git(package, "rev-parse", "HEAD")
    assert commit_of(package) == head
    (package / "code.py").write_text("two\n", encoding="utf-8")
    assert commit_of(package) == f"{head}-dirty"


def test_another_projects_commit_is_not_ours(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An installed package lies somewhere in the repository of who uses it, or in none."""
    installed = package.parent / "site-packages" / "training"
    installed.mkdir(parents=True)
    assert commit_of(installed) is None
    assert commit_of(tmp_path_factory.mktemp("plain")) is None


def test_the_libraries_that_compute_are_named() -> None:
    """Python, and onnxruntime by whichever distribution is there."""
    versions = library_versions()
    assert versions["python"] == platform.python_version()
    assert versions.keys() >= {"torch", "onnx", "numpy"}
    assert versions.keys() & {"onnxruntime", "onnxruntime-gpu"}
