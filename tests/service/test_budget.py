"""The account of the state's memory: what versions may take, and that all of them stay within the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.budget import KEPT_BYTES, KNOWN_BYTES, RESERVE, Claim, Ledger, Need, Share, grown, sized
from service.bundle.errors import BundleError

MIB = 2**20
WHOLE = 64 * MIB


def need(items: int, *, row_bytes: int = 1024, shareable: bool = False) -> Need:
    """Of a version with so many items."""
    return Need(items, row_bytes, 256, shareable)


def counted(share: Share, row_bytes: int, items: int) -> int:
    """Bytes of a worker's own, counted from the rows."""
    rows = share.scratch + share.pool + (items if share.resident and not share.shared else 0)
    return rows * row_bytes + share.pool * KEPT_BYTES + items * KNOWN_BYTES


def test_a_catalogue_that_fits_is_resident() -> None:
    """With room for as many changed items."""
    share = sized(need(1000), WHOLE, WHOLE, 2)
    assert (share.resident, share.pool, share.scratch, share.shared) == (True, 1000, 256, 0)
    assert share.own == counted(share, 1024, 1000)


def test_one_that_does_not_is_held_on_demand() -> None:
    """In all that is free but the reserve, the same in every worker."""
    share = sized(need(100_000), WHOLE, WHOLE, 2)
    assert not share.resident
    assert share.own == counted(share, 1024, 100_000)
    assert WHOLE - WHOLE // RESERVE - 4096 <= share.bytes(2) <= WHOLE - WHOLE // RESERVE


def test_what_is_shared_counts_once() -> None:
    """So a catalogue that fits only once is resident where workers can share it."""
    large = need(40_000)
    assert not sized(large, WHOLE, WHOLE, 2).resident
    share = sized(need(40_000, shareable=True), WHOLE, WHOLE, 2)
    assert (share.resident, share.shared) == (True, 40_000 * 1024)
    assert share.own == counted(share, 1024, 40_000)
    assert share.bytes(2) == share.shared + 2 * share.own <= WHOLE


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


def test_a_table_never_grows_beyond_its_most() -> None:
    """There is no use for more rows; nor are more asked of the system than the whole is good for."""
    share = sized(need(1000), 4 * MIB, WHOLE, 1)
    assert grown(share, 1024, 2**40, 0, 1).pool == share.most == 1000
    assert sized(need(10**6), WHOLE, WHOLE, 2).most * 2 * 1024 < WHOLE


def test_the_smallest_table_has_few_scratch_rows() -> None:
    """Where there is no room for more; and where there is none for those, the version is refused."""
    share = sized(need(1000), 100 * 1024, WHOLE, 1)
    assert (share.resident, 16 <= share.scratch < 256) == (False, True)
    assert share.bytes(1) <= 100 * 1024
    with pytest.raises(BundleError, match=r"takes .* MiB in each of 2 workers, .*; raise state_mib"):
        sized(need(1000), 20 * 1024, WHOLE, 2)


def test_the_first_worker_decides(tmp_path: Path) -> None:
    """The others have what it has, also when they come after room was made, and what one gains, all do."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    old, claim = one.claim("v1", need(100_000)), one.claim("v2", need(2_000))
    two.claim("v1", need(100_000))
    one.leave(old)
    later = two.claim("v2", need(2_000))
    assert (later.share.resident, later.share.pool) == (claim.share.resident, claim.share.pool)
    assert one.taken() == two.taken() <= WHOLE


def test_the_last_one_takes_the_file_along(tmp_path: Path) -> None:
    """While another worker has the version, its file stays: one that is respawned maps it."""
    one, two = (Ledger(WHOLE, 2, tmp_path) for _ in range(2))
    claims = [ledger.claim("v1", need(100, shareable=True)) for ledger in (one, two)]
    file = one.file("v1")
    assert file is not None
    file.write_bytes(b"state")
    one.leave(claims[0])
    assert file.exists()
    two.leave(claims[1])
    assert not file.exists()
    assert one.taken() == 0


def test_the_dead_have_nothing(tmp_path: Path) -> None:
    """What a worker had that was killed is free again."""
    code = (
        "import os, sys; from pathlib import Path; from service.budget import Ledger, Need\n"
        "Ledger(2**26, 2, Path(sys.argv[1])).claim('v1', Need(100, 1024, 16, True))\n"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path.cwd(), check=False)
    assert ended.returncode == -9
    assert b"v1" in (tmp_path / "account").read_bytes()
    assert Ledger(WHOLE, 2, tmp_path).taken() == 0


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
        if what == "claim" and (worker, version) not in [(w, int(c.version)) for w, c in held]:
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
