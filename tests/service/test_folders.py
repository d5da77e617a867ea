"""Temporary folders: there as long as their process, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.folders import LOCK, own_folder, sweep

SWEEP = "import sys, pathlib; from service.folders import sweep; sweep(pathlib.Path(sys.argv[1]))"
HOLD = """
import sys
from service.folders import own_folder
with own_folder(sys.argv[1]) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_it_goes_with_its_block(tmp_path: Path) -> None:
    """And is there until then, whoever else comes and sweeps."""
    with own_folder(str(tmp_path)) as one, own_folder(str(tmp_path)) as other:
        (Path(one) / "state").touch()
        assert one != other
        assert Path(one, "state").exists()
        assert Path(other).exists()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    """By the next that makes a folder there, and not before the process is gone."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with own_folder(str(tmp_path)):
            assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left.exists()
    with own_folder(str(tmp_path)) as folder:
        assert list(tmp_path.iterdir()) == [Path(folder)]


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "device"])
def test_a_lock_that_is_no_file_of_ours_is_let_be(tmp_path: Path, kind: str) -> None:
    """Anybody can put anything where temporary files are; a FIFO would be waited for, for ever."""
    left = tmp_path / "rankserve-theirs"
    left.mkdir()
    lock = left / LOCK
    match kind:
        case "fifo":
            os.mkfifo(lock)
        case "link":
            (tmp_path / "elsewhere").touch()
            lock.symlink_to(tmp_path / "elsewhere")
        case "folder":
            lock.mkdir()
        case "device":
            lock.symlink_to("/dev/null")
    # In a process of its own: what a system call waits for, no test's time limit ends.
    sweeping = [sys.executable, "-c", SWEEP, str(tmp_path)]
    subprocess.run(sweeping, timeout=60, check=True)
    assert lock.is_symlink() or lock.exists()


def test_what_another_user_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where this one could remove it, as root can."""
    left = tmp_path / "rankserve-theirs"
    left.mkdir()
    (left / LOCK).touch()
    monkeypatch.setattr(os, "geteuid", lambda: (left / LOCK).stat().st_uid + 1)
    sweep(tmp_path)
    assert left.exists()
    monkeypatch.undo()
    sweep(tmp_path)
    assert not left.exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    """One that is being made has no lock by its name yet, and what is called otherwise is not ours."""
    (tmp_path / "rankserve-being-made").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "in-use").touch()
    with own_folder(str(tmp_path)):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "rankserve-being-made"]
