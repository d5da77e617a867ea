"""Temporary folders: there as long as their process, and no longer."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from service.folders import own_folder

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


def test_folders_of_others_stay(tmp_path: Path) -> None:
    """One that is being made has no lock by its name yet, and what is called otherwise is not ours."""
    (tmp_path / "rankserve-being-made").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "in-use").touch()
    with own_folder(str(tmp_path)):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "rankserve-being-made"]
