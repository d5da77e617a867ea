"""Who has which share of the state's memory: all of them stay within the whole, whoever dies or deletes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.budget import RESERVE
from service.bundle.errors import BundleError
from service.ledger import Claim, Ledger
from tests.service.test_budget import MIB, WHOLE, counted, need

ROOT = Path(__file__).parents[2]


def test_both_versions_of_a_swap_are_resident_where_there_is_room() -> None:
    """The first leaves as much as its successor needs, and takes the rest for what changes."""
    ledger = Ledger(WHOLE)
    first = ledger.claim("v1", need(25_000))
    second = ledger.claim("v2", need(25_000))
    assert (first.share.resident, second.share.resident) == (True, True)
    assert ledger.taken() <= WHOLE


def test_the_next_version_has_a_table() -> None:
    """Whatever the first took; and when that is gone, the table grows into its room but for the reserve."""
    ledger = Ledger(WHOLE, 2)
    first, second = ledger.claim("v1", need(100_000)), ledger.claim("v2", need(100_000))
    assert 0 < second.share.pool < first.share.pool / RESERVE
    assert ledger.grow(second).pool == second.share.pool
    ledger.leave(first)
    share = ledger.grow(second)
    assert share.own == counted(share, 1024, 100_000)
    assert WHOLE - WHOLE // RESERVE - 4096 <= share.bytes(2) <= WHOLE - WHOLE // RESERVE
    assert ledger.grow(second) == share


def test_the_first_worker_decides(tmp_path: Path) -> None:
    """The others have what it has, also when they come after room was made, and what one gains, all do."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    old, claim = one.claim("v1", need(100_000)), one.claim("v2", need(2_000))
    two.claim("v1", need(100_000))
    one.leave(old)
    later = two.claim("v2", need(2_000))
    assert (later.share.resident, later.share.pool) == (claim.share.resident, claim.share.pool)
    assert one.taken() == two.taken() <= WHOLE


def test_one_that_loads_a_version_anew_has_another_share(tmp_path: Path) -> None:
    """As long as it has the old one; and one that is respawned has what the others have by now."""
    one, two = ledgers = [Ledger(WHOLE, 2, tmp_path) for _ in range(2)]
    large = need(100_000)
    old, new = ([ledger.claim("v1", large) for ledger in ledgers] for _ in range(2))
    assert old[0].name == old[1].name != new[0].name == new[1].name
    assert one.file(old[0]) != one.file(new[0])
    one.leave(old[0])
    assert Ledger(WHOLE, 2, tmp_path).claim("v1", large).name == new[0].name
    for ledger, claim in ((two, old[1]), (two, new[1])):
        ledger.leave(claim)
    assert two.claim("v1", large).name == new[0].name
    assert one.taken() <= WHOLE


def test_the_last_one_takes_the_files_along(tmp_path: Path) -> None:
    """While another worker has the version, they stay: one that is respawned maps them."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    claims = [ledger.claim("v1", need(100, shareable=True)) for ledger in (one, two)]
    file = one.file(claims[0])
    assert file is not None
    file.write_bytes(b"state")
    file.with_suffix(".part").write_bytes(b"of one that was killed")
    one.leave(claims[0])
    assert file.exists()
    two.leave(claims[1])
    assert not list(tmp_path.iterdir())
    assert one.taken() == 0


def test_nobody_waits_while_a_file_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of gigabytes takes long; the account is free meanwhile, and the file not to be found."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    claim = one.claim("v1", need(100, shareable=True))
    file = one.file(claim)
    assert file is not None
    file.write_bytes(b"state")
    begun, go_on, unlink = Event(), Event(), Path.unlink

    def slow(path: Path, missing_ok: bool = False) -> None:
        begun.set()
        assert go_on.wait(30)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", slow)
    with ThreadPoolExecutor(1) as threads:
        left = threads.submit(one.leave, claim)
        assert begun.wait(30)
        directory = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(directory)
        assert not file.exists()
        assert one._lock.acquire(blocking=False)
        one._lock.release()
        go_on.set()
        left.result()
    assert not list(tmp_path.iterdir())
    assert two.taken() == 0


def run(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Another process, with a ledger of the folder that it is told first."""
    start = (
        "import os, sys; from pathlib import Path\n"
        "from service.budget import Need; from service.ledger import Ledger\n"
        "ledger = Ledger(2**26, 2, Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", start + code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def test_the_dead_have_nothing(tmp_path: Path) -> None:
    """What a worker had that was killed is free again, and so is what it had half filled."""
    ended = run("ledger.claim('v1', Need(100, 1024, 16, True)); os.kill(os.getpid(), 9)", tmp_path)
    assert ended.returncode == -9
    (share,) = tmp_path.glob("v1.*.share")
    share.with_suffix(".part").write_bytes(b"half")
    assert Ledger(WHOLE, 2, tmp_path).taken() == 0
    assert not list(tmp_path.iterdir())


LOOP = """
import random
rng, held = random.Random(os.getpid()), []
for _ in range(150):
    if held and rng.random() < 0.5:
        ledger.leave(held.pop())
    else:
        held.append(ledger.claim(rng.choice("abc"), Need(100, 1024, 16, True)))
        assert ledger.file(held[-1]).with_suffix(".share").exists()
    assert ledger.taken() <= ledger.whole
for claim in held:
    ledger.leave(claim)
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Which claim and leave the same versions all the while: nothing breaks, and nothing is left."""
    with ThreadPoolExecutor(2) as threads:
        for ended in threads.map(lambda _: run(LOOP, tmp_path), range(2)):
            assert (ended.returncode, ended.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


def test_a_look_waits_for_whoever_has_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker or another thread; but not for ever: then there is no growth, and own shares count."""
    monkeypatch.setattr("service.ledger.ACCOUNT_LIMIT_S", 0.05)
    ledger = Ledger(WHOLE, 2, tmp_path)
    claim = ledger.claim("v1", need(100_000))
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match=r"locked for 0\.05 s"):
        ledger.taken()
    assert ledger.grow(claim) == claim.share
    os.close(directory)
    with ThreadPoolExecutor(1) as threads:
        with ledger._lock:
            look = threads.submit(ledger.taken)
            with pytest.raises(FutureTimeout):
                look.result(0.1)
        assert look.result(30) == claim.share.bytes(2)


def deleted(folder: Path) -> None:
    """Somebody cleans up."""
    for path in folder.iterdir():
        path.unlink()


def torn(folder: Path) -> None:
    """What is written is no share."""
    for path in folder.glob("*.share"):
        os.truncate(path, 17)


@pytest.mark.parametrize("damage", [deleted, torn])
def test_what_was_damaged_is_written_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """By whoever has it: both of them go on, and the others count it."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    claims = [ledger.claim("v1", need(100_000)) for ledger in (one, two)]
    before = one.taken()
    damage(tmp_path)
    assert one.grow(claims[0]) == claims[0].share
    assert one.taken() == two.taken() == Ledger(WHOLE, 2, tmp_path).taken() == before
    damage(tmp_path)
    two.leave(claims[1])
    two.leave(claims[1])
    assert one.taken() == before
    one.leave(claims[0])
    assert not list(tmp_path.iterdir())


def test_the_largest_of_a_share_counts(tmp_path: Path) -> None:
    """A worker that did not know yet how it had grown writes it anew; one that knows, corrects it."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    old = one.claim("v0", need(100_000))
    grown, _ = (ledger.claim("v1", need(100_000)) for ledger in (one, two))
    one.leave(old)
    one.grow(grown)
    deleted(tmp_path)
    assert one.taken() > two.taken() < one.taken() == two.taken() == grown.share.bytes(2)


def test_a_folder_that_is_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A version has no growth, another one room of its own, each can leave, and the log says so once."""
    folder = tmp_path / "state"
    folder.mkdir()
    ledger = Ledger(WHOLE, 2, folder)
    first = ledger.claim("v1", need(20_000, shareable=True))
    shutil.rmtree(folder)
    assert [ledger.grow(first) for _ in range(3)] == [first.share] * 3
    second = ledger.claim("v2", need(100_000, shareable=True))
    assert 0 < second.share.bytes(2) <= WHOLE - first.share.bytes(2)
    assert caplog.text.count("the account of the items' state cannot be used") == 1
    folder.mkdir()
    assert ledger.taken() == Ledger(WHOLE, 2, folder).taken() == first.share.bytes(2) + second.share.bytes(2)
    shutil.rmtree(folder)
    for claim in (first, second):
        ledger.leave(claim)
    folder.mkdir()
    assert ledger.taken() == 0


def test_a_folder_that_is_none_is_not_shared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the log says so."""
    ledger = Ledger(WHOLE, 2, tmp_path / "nowhere")
    assert ledger.folder is None
    assert "no state is shared in this folder" in caplog.text
    assert ledger.claim("v1", need(100)).share.resident


steps = st.lists(
    st.tuples(
        st.sampled_from(["claim", "leave", "grow"]), st.integers(0, 1), st.integers(0, 3), st.integers(0, 9)
    ),
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, whole=st.integers(1, 64), workers=st.integers(2, 3))
def test_the_whole_is_never_exceeded(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, int, int]],
    whole: int,
    workers: int,
) -> None:
    """Whatever two workers claim, give back and grow, in any order."""
    folder = tmp_path_factory.mktemp("state")
    ledgers = [Ledger(whole * MIB, workers, folder) for _ in range(2)]
    needs = [need(10 ** (version + 2), row_bytes=512, shareable=version % 2 == 0) for version in range(4)]
    held: list[tuple[int, Claim]] = []
    for what, worker, version, which in steps:
        if what == "claim" and (worker, version) not in [(w, int(c.name.partition(".")[0])) for w, c in held]:
            try:
                held.append((worker, ledgers[worker].claim(str(version), needs[version])))
            except BundleError:
                continue
        elif what == "leave" and held:
            owner, claim = held.pop(which % len(held))
            ledgers[owner].leave(claim)
        elif what == "grow" and held:
            owner, claim = held[which % len(held)]
            ledgers[owner].grow(claim)
        assert ledgers[0].taken() <= whole * MIB
    for owner, claim in held:
        ledgers[owner].leave(claim)
    assert ledgers[0].taken() == 0
    assert not list(folder.iterdir())
