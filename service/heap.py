"""The memory of a worker, in which versions come and go: blocks of the heap, and objects of Python's.

The heap's options are glibc's; another C library is left as it is.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

M_MMAP_THRESHOLD = -3
"""glibc's number of the option, from malloc.h"""

LARGE_BYTES = 128 * 1024
"""glibc's own threshold, as long as it has not moved it"""


def keep_large_blocks_apart() -> None:
    """Map every large block of its own accord, so that it goes back to the system as soon as it is freed.

    glibc raises the threshold whenever such a block is freed. The arrays of the next version would then lie
    in the heap between what lives on, and leave gaps there that no trimming gives back: after some swaps
    the resident memory wandered by a tenth.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def settle() -> None:
    """Take what there is now for what stays: no collection of garbage looks at it again.

    Modules, routes and the first models are hundreds of thousands of objects. To look through them all takes
    some twenty milliseconds, in which nothing else happens, and finds nothing. What is to go again, as a
    model is, must hold no cycle.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return what the heap has free to the system; glibc would keep it."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
