"""The state's memory: what the budget counts is what is touched, and workers share what is filled ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle.manifest import Manifest, StateArray
from service.bundle.rows import Columns
from service.ledger import Ledger
from service.mapping import Mapped
from service.state import FILL_ROWS, State
from service.wanted import Wanted
from tests.tiny import write_tiny

ROOT = Path(__file__).parents[2]
WIDTHS = {"wide": 500, "narrow": 3}
ITEMS = 3 * FILL_ROWS + 5

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="needs Linux' account of memory"
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of a bundle whose state is two arrays of odd widths."""
    return wide_and_narrow(tmp_path_factory.mktemp("models"))


def wide_and_narrow(models: Path) -> Manifest:
    """The manifest of a tiny bundle, restated."""
    state = tuple(
        StateArray(name=name, shape=(0, width), item_axis=0, dtype="float16" if name == "wide" else "float32")
        for name, width in WIDTHS.items()
    )
    tiny = write_tiny(models, "v1")
    return tiny.manifest.model_copy(update={"state": state})


def items(n: int = ITEMS) -> Columns:
    """An item is its number."""
    return Columns(np.arange(n, dtype=np.int32)[:, None], np.zeros((n, 0), np.float32))


def compute(columns: Columns) -> Sequence[NDArray[Any]]:
    """Its state is that number, modulo what float16 can hold, over and over."""
    return [
        np.repeat(columns.index % 2000, width, axis=1).astype(np.float16 if name == "wide" else np.float32)
        for name, width in WIDTHS.items()
    ]


def wanted(rows: NDArray[Any]) -> Wanted:
    """Items as the catalogue has them."""
    return Wanted(rows.astype(np.int32), None, np.empty(0, np.int32), np.empty(0, np.int64))


def check(state: State, rows: NDArray[Any]) -> None:
    """The items' rows hold their state."""
    at = state.rows(wanted(rows))
    for array in state.arrays.values():
        assert (array[at] == (rows % 2000)[:, None]).all()


def touched(array: NDArray[Any]) -> int:
    """Bytes of the pages that an array has in memory."""
    pages = (ctypes.c_ubyte * -(-array.nbytes // mmap.PAGESIZE))()
    address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
    assert ctypes.CDLL(None).mincore(address, size, pages) == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_is_touched_than_the_budget_says(manifest: Manifest, tmp_path: Path, workers: int) -> None:
    """With far more items than there is room for, used over and over; and room that is made is used."""
    whole, catalogue = 4 * 2**20, items(50_000)
    ledgers = [Ledger(whole, 2, tmp_path) for _ in range(2)] if workers == 2 else [Ledger(whole)] * 2
    old, new = (State(manifest, catalogue, compute, ledger, 64) for ledger in ledgers)
    rng = np.random.default_rng(0)
    with closing(new):
        for state in (old, new) * 300:
            check(state, rng.integers(0, len(catalogue), min(64, state.max_rows)))
        own = [sum(touched(array) for array in state.arrays.values()) for state in (old, new)]
        for state, size in zip((old, new), own, strict=True):
            assert size <= state.figures().bytes // workers
            assert state.figures().counts["evicted"] > 0
        assert whole // 2 < sum(own) < ledgers[0].taken() <= whole
        old.close()


def test_the_pages_of_a_closed_array_are_gone() -> None:
    """In pieces, so that nobody waits long, and to the last."""
    mapped = Mapped((3000, 1000), "float32")
    mapped.array[:] = 1
    assert touched(mapped.array) >= mapped.array.nbytes
    array = mapped.array
    mapped.close()
    assert touched(array) == 0


def test_workers_share_the_catalogue_in_one_file(manifest: Manifest, tmp_path: Path) -> None:
    """It is filled once; what a worker computes on top is its own."""
    computed: list[int] = []

    def counted(columns: Columns) -> Sequence[NDArray[Any]]:
        computed.append(len(columns))
        return compute(columns)

    states = [State(manifest, items(), counted, Ledger(2**26, 2, tmp_path), 64) for _ in range(2)]
    assert sum(computed) == ITEMS
    changed = Columns(np.array([[1999]], np.int32), np.zeros((1, 0), np.float32))
    for state in states:
        assert state.figures().shared
        for start in range(0, ITEMS - 64, 64):
            check(state, np.arange(start, start + 64))
        own = state.rows(Wanted(np.array([4, 5], np.int32), changed, np.array([1], np.int32), np.array([7])))
        assert [state.arrays["narrow"][row, 0] for row in own] == [4, 1999]
    assert len(list(tmp_path.glob("*.state"))) == 1
    states[0].close()
    check(states[1], np.arange(64))
    states[1].close()
    assert not list(tmp_path.glob("*.state"))


WORKER = """
import sys, time
from pathlib import Path
from service.ledger import Ledger
from service.bundle.manifest import Manifest
from service.state import State
from tests.service.test_state import compute, items

manifest, folder = Manifest.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
runs = 0

def now(columns):
    global runs
    runs += 1
    if runs == 2 and len(sys.argv) > 3:
        print("half", flush=True)
        time.sleep(60)
    return compute(columns)

state = State(manifest, items(), now, Ledger(2**26, 2, folder), 64)
print("open", state.figures().shared, runs, flush=True)
sys.stdin.read()
"""


@contextmanager
def worker(manifest: Manifest, folder: Path, *slow: str) -> Iterator[subprocess.Popen[str]]:
    """Another worker, which opens the version."""
    stated = folder.parent / "manifest.json"
    stated.write_text(manifest.model_dump_json())
    command = [sys.executable, "-c", WORKER, str(stated), str(folder), *slow]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """A line that a worker writes."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def mapped_file(pid: int | str) -> tuple[set[str], int]:
    """Device and inode of the state's file that a process maps, and bytes of it that are its alone."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    files, private, within = set(), 0, False
    for line in lines:
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            within = line.endswith(".state")
            files |= {" ".join(words[3:5])} if within else set()
        elif within and words[0] == "Private_Dirty:":
            private += int(words[1]) * 1024
    return files, private


def test_processes_map_the_same_pages(manifest: Manifest, tmp_path: Path) -> None:
    """One inode, and no page of it is copied by a worker that has ranked."""
    folder = tmp_path / "state"
    folder.mkdir()
    with worker(manifest, folder) as other:
        assert said(other) == f"open True {-(-ITEMS // FILL_ROWS)}"
        with closing(State(manifest, items(), compute, Ledger(2**26, 2, folder), 64)) as state:
            check(state, np.arange(64))
            ours, copied = mapped_file("self")
            assert len(ours) == 1
            assert (ours, 0) == mapped_file(other.pid)
            assert copied == 0


def test_a_filler_that_was_killed_leaves_nothing_that_is_used(manifest: Manifest, tmp_path: Path) -> None:
    """The next worker fills it anew, and the dead one's part is free."""
    folder = tmp_path / "state"
    folder.mkdir()
    with worker(manifest, folder, "slow") as other:
        assert said(other) == "half"
        assert {path.suffix for path in folder.glob("v1*")} == {".part", ".share"}
    ledger = Ledger(2**26, 2, folder)
    with closing(State(manifest, items(), compute, ledger, 64)) as state:
        for start in range(0, ITEMS - 64, 64):
            check(state, np.arange(start, start + 64))
        assert {path.suffix for path in folder.glob("v1*")} == {".state", ".share"}
    assert ledger.taken() == 0
    assert not list(folder.glob("v1*"))


def test_who_comes_while_it_is_filled_waits(manifest: Manifest, tmp_path: Path) -> None:
    """And computes nothing."""
    begun, go_on = Event(), Event()

    def slow(columns: Columns) -> Sequence[NDArray[Any]]:
        begun.set()
        assert go_on.wait(30)
        return compute(columns)

    def never(columns: Columns) -> Sequence[NDArray[Any]]:
        raise AssertionError

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(State, manifest, items(), slow, Ledger(2**26, 2, tmp_path), 64)
        assert begun.wait(30)
        second = threads.submit(State, manifest, items(), never, Ledger(2**26, 2, tmp_path), 64)
        go_on.set()
        for state in (second.result(), first.result()):
            check(state, np.arange(ITEMS - 64, ITEMS))
            state.close()


def test_where_no_file_can_be_written_each_has_its_own(
    manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within the same budget: a full disk, or one that takes no file as large; the log says so."""
    ledger = Ledger(2**26, 2, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        state = State(manifest, items(), compute, ledger, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with closing(state):
        assert "the workers cannot share the items' state" in caplog.text
        assert (state.figures().mode, state.figures().shared) == ("resident", False)
        assert ledger.taken() == state.figures().bytes > 2 * ITEMS * 1012
        check(state, np.arange(64))
    assert not list(tmp_path.glob("v1*"))


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    """Whoever read behind its end would be killed."""
    path = tmp_path / "short"
    path.write_bytes(bytes(os.sysconf("SC_PAGE_SIZE")))
    mapped = Mapped((2000, 10), "float32")
    with path.open("rb") as file, pytest.raises(OSError, match="shorter"):
        mapped.lay_over(file, 0, 1000)
    mapped.close()
