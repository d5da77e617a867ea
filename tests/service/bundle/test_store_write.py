"""Bundles are written whole or not at all, and never change."""

import random
import signal
import time
from pathlib import Path

import pytest

from service.bundle.errors import BundleError
from service.bundle.manifest import Manifest
from service.bundle.store import verify, versions, write
from tests.service.bundle.processes import die_while_filling, started, write_for_ever
from tests.service.bundle.sound import FILES, filling, left_over, manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle."""
    return write(tmp_path, "v1", filling("v1"))


def test_versions_never_change(bundle: Path) -> None:
    """A version that exists is not overwritten."""
    with pytest.raises(BundleError, match="v1: this version exists"):
        write(bundle.parent, "v1", filling("v1"))
    verify(bundle)
    assert left_over(bundle.parent) == []


def test_a_race_for_one_name(tmp_path: Path) -> None:
    """Of two writers of one version the first to end wins, and the other is told."""

    def fill(folder: Path) -> Manifest:
        write(tmp_path, "v1", filling("v1"))
        return filling("v1")(folder)

    with pytest.raises(BundleError, match="v1: this version exists"):
        write(tmp_path, "v1", fill)
    verify(tmp_path / "v1")
    assert left_over(tmp_path) == []


def test_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    """Where the writer breaks, or gives what is no bundle, nothing is left."""

    def broken(folder: Path) -> Manifest:
        (folder / "rank.onnx").write_bytes(b"x")
        raise ZeroDivisionError

    def nested(folder: Path) -> Manifest:
        (folder / "more").mkdir()
        return manifest("v1")

    with pytest.raises(ZeroDivisionError):
        write(tmp_path, "v1", broken)
    with pytest.raises(BundleError, match="more does not belong in a bundle"):
        write(tmp_path, "v1", nested)
    with pytest.raises(BundleError, match="the manifest is of version 'v2'"):
        write(tmp_path, "v1", filling("v2"))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_writers_do_not_sweep_each_other(tmp_path: Path) -> None:
    """What a living writer has begun is left alone by another."""

    def fill(folder: Path) -> Manifest:
        written = filling("slow")(folder)
        write(tmp_path, "fast", filling("fast"))
        return written

    verify(write(tmp_path, "slow", fill))
    assert versions(tmp_path) == ["fast", "slow"]


def test_unfinished_files_are_swept(tmp_path: Path) -> None:
    """So is what a writer of a single file has left."""
    (tmp_path / ".unfinished-deployment.json-0a").write_bytes(b"{")
    write(tmp_path, "v1", filling("v1"))
    assert left_over(tmp_path) == []


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whenever a writer is killed, every version there is is whole, and the next writer sweeps up."""
    moments = random.Random(7)
    for attempt in range(40):
        writer = started(write_for_ever, tmp_path, f"v{attempt}")
        while not (tmp_path / f"v{attempt}-0").exists():
            assert writer.is_alive()
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.02))
        writer.kill()
        writer.join()
        assert len(left_over(tmp_path)) <= 1
    for version in versions(tmp_path):
        verify(tmp_path / version)
    write(tmp_path, "last", filling("last"))
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("at", FILES)
def test_killed_while_filling(tmp_path: Path, at: str) -> None:
    """A writer killed half-way leaves no version; the same name can then be written."""
    writer = started(die_while_filling, tmp_path, at)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert versions(tmp_path) == []
    assert len(left_over(tmp_path)) == 1
    verify(write(tmp_path, "v1", filling("v1")))
    assert left_over(tmp_path) == []
