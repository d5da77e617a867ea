"""What each worker has and does, and that it lives: in memory that the supervisor makes for all.

A number has one writer, its worker, and after that one's death the supervisor: there is nothing to lock.
"""

from __future__ import annotations

import mmap
import os
import tempfile

AWAY = -1
"""In place of a number: this worker takes nobody. It starts, drains, or is dead."""

_BYTES = 8
_NUMBERS = 4
"""of each worker"""


class Tally:
    """By worker, `[workers]` each: open connections, beats so far, cores that its run takes, and until when.

    Times are of the clock that all processes of a machine have, `time.monotonic_ns`.
    """

    def __init__(self, fd: int) -> None:
        """Map the memory behind a descriptor, which stays the caller's."""
        numbers = memoryview(mmap.mmap(fd, 0)).cast("q")
        n = len(numbers) // _NUMBERS
        self._counts, self._beats, self._cores, self._kept = (
            numbers[at * n : (at + 1) * n] for at in range(_NUMBERS)
        )

    def __len__(self) -> int:
        """How many workers there are."""
        return len(self._counts)

    def __getitem__(self, worker: int) -> int:
        """What a worker has, or `AWAY`."""
        return self._counts[worker]

    def __setitem__(self, worker: int, count: int) -> None:
        self._counts[worker] = count

    def beat(self, worker: int) -> None:
        """A worker's sign of life, to be given again and again."""
        self._beats[worker] += 1

    def beats(self, worker: int) -> int:
        """How often it has given one; a worker that starts again goes on where its predecessor ended."""
        return self._beats[worker]

    def take(self, worker: int, cores: int, kept_until: int = 0) -> None:
        """So many cores does a worker's run take from now on; one of them until then, if it has none."""
        self._cores[worker], self._kept[worker] = cores, kept_until

    def taken(self, now: int, but: int | None = None) -> int:
        """Cores that the runs of all workers take, or are kept for; of all but one."""
        return sum(
            max(cores, int(kept > now))
            for worker, (cores, kept) in enumerate(zip(self._cores, self._kept, strict=True))
            if worker != but
        )

    def others(self, worker: int) -> dict[int, int]:
        """Worker -> what it has, of all others that take callers."""
        return {other: count for other, count in enumerate(self._counts) if other != worker and count != AWAY}


def make(workers: int) -> int:
    """A descriptor of new memory for so many workers, all of them away; it is the caller's to close."""
    if hasattr(os, "memfd_create"):  # Linux; no disk stands behind it
        fd = os.memfd_create("rankserve-tally")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    away = AWAY.to_bytes(_BYTES, "little", signed=True) * workers
    os.write(fd, away + bytes(_BYTES) * workers * (_NUMBERS - 1))
    return fd
