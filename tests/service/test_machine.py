"""What there is of a machine, with the limits of control groups as files say them."""

import os
from pathlib import Path

import pytest

from service import cuda
from service.machine import Machine, cores, memory_bytes

GIB = 2**30


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 GiB, where no limit says otherwise."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**24}.__getitem__)


def group(root: Path, tree: str, **files: str) -> None:
    """A control group's files."""
    folder = root / "sys/fs/cgroup" / tree
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def belongs(root: Path, *lines: str) -> Path:
    """This process's groups."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    return root


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    """No control groups at all, as on another system."""
    assert Machine.here(tmp_path) == Machine(8, 64 * GIB, gpu=False)


def test_a_limit_of_the_group_counts(tmp_path: Path) -> None:
    """In a container that sees its group as the whole tree; part of a core is none."""
    group(tmp_path, "", cpu__max="250000 100000", memory__max=str(3 * GIB))
    assert Machine.here(belongs(tmp_path, "0::/")) == Machine(2, 3 * GIB, gpu=False)


def test_the_narrowest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    """Whichever it is; `max` is none."""
    belongs(tmp_path, "0::/pods/mine")
    group(tmp_path, "", memory__max="max")
    group(tmp_path, "pods", cpu__max="400000 100000", memory__max=str(4 * GIB))
    group(tmp_path, "pods/mine", cpu__max="max 100000", memory__max=str(5 * GIB))
    assert Machine.here(tmp_path) == Machine(4, 4 * GIB, gpu=False)


def test_the_first_version_of_control_groups_counts(tmp_path: Path) -> None:
    """A tree a controller, by a path of the host's that a container lacks; no limit is a huge one, or -1."""
    belongs(tmp_path, "4:memory:/docker/abc", "3:cpuacct,cpu:/docker/abc", "1:name=systemd:/a:b", "0::/")
    group(tmp_path, "memory", memory__limit_in_bytes="9223372036854771712")
    group(tmp_path, "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert Machine.here(tmp_path) == Machine(8, 64 * GIB, gpu=False)
    group(tmp_path, "memory", memory__limit_in_bytes=str(GIB))
    group(tmp_path, "cpu", cpu__cfs_quota_us="350000")
    assert Machine.here(tmp_path) == Machine(3, GIB, gpu=False)


@pytest.mark.parametrize(("quota", "found"), [("50000 100000", 1), ("1600000 100000", 8), ("nonsense", 8)])
def test_there_is_always_a_core_and_never_more_than_are_there(tmp_path: Path, quota: str, found: int) -> None:
    """Half a core is one; a quota of more than the machine has is no quota."""
    group(tmp_path, "", cpu__max=quota)
    assert cores(belongs(tmp_path, "0::/")) == found


def test_where_no_process_can_be_bound_all_cores_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on systems other than Linux."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores(tmp_path) == 6


@pytest.mark.parametrize("usable", [False, True])
def test_a_gpu_is_one_with_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: bool) -> None:
    """Its device is there. CUDA's libraries without one are nothing, and it is little without them."""
    monkeypatch.setattr(cuda, "usable", lambda: usable)
    assert not Machine.here(tmp_path).cuda
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    found = Machine.here(tmp_path)
    assert (found.gpu, found.cuda) == (True, usable)


def test_this_machine_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is."""
    monkeypatch.undo()
    assert cores() >= 1
    assert memory_bytes() >= 2**26
