"""Arrays in memory mapped for them alone: pages count when they are touched, and the front can be a file's.

What lies in a file is one set of pages for all processes that map it. The mapping is private: who writes to
such a page has a copy of it from then on.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAP_FIXED = 0x10
"""lay a mapping over what is there; `mmap` lacks the name"""

PIECE_BYTES = 4 * 2**20
"""mapped or given back at a time: no longer than other threads can wait"""

FILL_LIMIT_S = 600.0
"""how long to wait for the worker that fills a file"""

POLL_S = 0.02


class Mapped:
    """An array ``[n, …]``, of zeros to begin with, until it is closed."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        kind = np.dtype(dtype)
        self._memory = mmap.mmap(
            -1, max(1, prod(shape) * kind.itemsize), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self.array: Array = np.frombuffer(self._memory, kind, prod(shape)).reshape(shape)

    def lay_over(self, file: BinaryIO, offset: int, rows: int) -> None:
        """Let the first rows be the file's, from an offset that is a page's; its last, part page is copied.

        Raises:
            OSError: the file cannot be mapped, or is too short.
        """
        size = rows * self.array[:1].nbytes
        whole = size - size % mmap.PAGESIZE
        if os.fstat(file.fileno()).st_size < offset + size:
            raise OSError(f"{file.name} is shorter than what it should hold")  # reading on would be fatal
        if whole:
            _map(self.array.ctypes.data, whole, file.fileno(), offset)
        rest = os.pread(file.fileno(), size - whole, offset + whole)
        self._bytes()[whole:size] = np.frombuffer(rest, np.uint8)
        for start in range(0, whole, PIECE_BYTES):
            # Touched here, a page that is new to this process costs no request.
            self._bytes()[start : min(start + PIECE_BYTES, whole) : mmap.PAGESIZE].max()

    def close(self) -> None:
        """Give the pages back, a piece at a time: all at once would keep the GIL as long as it takes."""
        for start in range(0, len(self._memory), PIECE_BYTES):
            self._memory.madvise(mmap.MADV_DONTNEED, start, min(PIECE_BYTES, len(self._memory) - start))
            time.sleep(0)  # let others have the GIL
        del self.array, self._memory

    def _bytes(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._memory, np.uint8)


def shared_file(path: Path, write: Callable[[BinaryIO], None]) -> BinaryIO:
    """A file to read, which one process of those that want it writes first, under another name.

    Raises:
        OSError: it cannot be written or read, or another process has been writing for too long.
    """
    with (path.parent / "fill").open("wb") as filling:
        lock(filling.fileno(), FILL_LIMIT_S)
        if not path.exists():
            part = path.with_suffix(".part")  # a process that was killed may have left one
            try:
                with part.open("wb") as file:
                    write(file)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return path.open("rb")


def lock(file: int, within_s: float) -> None:
    """Lock a file for this process alone, until it is closed.

    Raises:
        TimeoutError: others have it all that time.
    """
    last = time.monotonic() + within_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                raise TimeoutError(f"another process has had it locked for {within_s:g} s") from None
        time.sleep(POLL_S)


def _map(address: int, size: int, file: int, offset: int) -> None:
    """Lay a private mapping of a file over memory that is mapped already."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    )  # fmt: skip
    flags = mmap.MAP_PRIVATE | MAP_FIXED
    if library.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, offset) != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
