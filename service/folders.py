"""Temporary folders of a process, which go with it; what a killed one left is swept by the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "rankserve-"
LOCK = "in-use"
"""of a folder: locked as long as its process lives, in whichever container that is"""


@contextmanager
def own_folder(place: str | None = None) -> Iterator[str]:
    """A new folder, until the block ends; in `place`, or where the system has its temporary files."""
    sweep(Path(place or tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as folder,
        (Path(folder) / f"{LOCK}.new").open("wb") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Named as one only now: a lock that nobody holds is that of a process that is gone.
        Path(lock.name).rename(Path(folder) / LOCK)
        yield folder


def sweep(place: Path) -> None:
    """Remove the folders whose process is gone; what another user left stays."""
    for lock in place.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), open(lock, "rb", opener=_open) as held:
            found = os.fstat(held.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


def _open(path: str, flags: int) -> int:
    """Whatever it is, in a place where anybody can put anything: a FIFO would be waited for, for ever."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
