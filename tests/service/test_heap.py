"""What the heap does with large blocks."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

MAPPED_AFTER_A_LARGE_ONE_WAS_FREED = """
import ctypes
from service import heap

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Info
if {apart}:
    heap.keep_large_blocks_apart()
libc.free(libc.malloc(16 << 20))
before = libc.mallinfo2().hblks
libc.malloc(1 << 20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library, which heap leaves as it is")
@pytest.mark.parametrize("apart", [True, False])
def test_a_large_block_is_mapped_even_after_a_larger_one_was_freed(apart: bool) -> None:
    """With large blocks kept apart each is a mapping of its own; glibc alone would take it from the heap."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("a glibc without mallinfo2, which tells")
    code = MAPPED_AFTER_A_LARGE_ONE_WAS_FREED.format(apart=apart)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) == int(apart)
