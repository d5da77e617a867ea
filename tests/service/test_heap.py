"""What a worker's memory does with large blocks, and with what stays."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.engine import EngineOptions
from service.model import Model, ModelOptions
from tests.tiny import write_tiny

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


WHAT_IS_LOOKED_AT = """
import gc
from service import heap

there = [[] for _ in range(1000)]
heap.settle()
before = len(gc.get_objects())
ring = []
ring.append(ring)
del ring
print(before < 1000, gc.collect() > 0)
"""


def test_what_has_settled_is_not_looked_at_again() -> None:
    """What comes later is, and goes when nobody has it any more."""
    told = subprocess.run(
        [sys.executable, "-c", WHAT_IS_LOOKED_AT], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["True", "True"]


def test_a_closed_model_goes_with_its_last_reference(tmp_path: Path) -> None:
    """It is in no cycle: of what has settled, as the first version has, no collection finds one."""
    folder = write_tiny(tmp_path, "v1").folder
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as executor:
            model = Model.load(folder, ModelOptions(EngineOptions(provider="cpu")), executor)
            kept = [weakref.ref(part) for part in (model, model.engine, model.engine.table, model.encoder)]
            model.close()
            del model
        assert [ref() for ref in kept] == [None] * 4
    finally:
        gc.enable()
