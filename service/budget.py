"""How much memory the state of all versions takes in all workers, and what each version has of it.

The first worker that loads a version decides how large its tables are, and the others do as it did: what all
of them share counts once, and what each has of its own as often as there are workers. The workers keep one
account, in a file of the folder that they share; a lone worker keeps it in its own memory.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from threading import Lock

from pydantic import TypeAdapter

from service.bundle.errors import BundleError

RESERVE = 16
"""one part in so many is left free, so that the next version of a swap has room for a table"""

LEAST_SCRATCH = 16
"""rows: what the smallest table has for the items of a run that it does not keep"""

KNOWN_BYTES = 4
"""of what a table knows about each item of the catalogue"""

KEPT_BYTES = 128
"""of what it knows about each row that it keeps, most of it an entry of a dict"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Need:
    """What a version could make use of.

    Attributes:
        items: of the catalogue.
        row_bytes: of an item's state.
        scratch: most rows for items of a run that are not kept.
        shareable: can workers share one filled catalogue?
    """

    items: int
    row_bytes: int
    scratch: int
    shareable: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What every worker has for the state of a version.

    Attributes:
        resident: is the whole catalogue's state held, and filled ahead?
        shared: bytes that all workers have together.
        own: bytes of each worker.
        scratch: rows for what a run does not keep.
        pool: rows for what is kept beyond what is resident.
        most: rows that the pool may ever grow to.
        workers: that have it, each by a name of its own.
    """

    resident: bool
    shared: int
    own: int
    scratch: int
    pool: int
    most: int
    workers: tuple[str, ...] = ()

    def bytes(self, workers: int) -> int:
        """Of so many workers together."""
        return self.shared + self.own * workers


_SHARES = TypeAdapter(dict[str, Share])

ACCOUNT_BYTES = 64 * 1024
"""of the file: room for some versions in hundreds of workers"""


def sized(need: Need, free: int, whole: int, workers: int) -> Share:
    """The largest table, resident where that is possible, in all of the free bytes but the reserve.

    It may grow to as much as the whole is good for.

    Raises:
        BundleError: there is no room for the smallest one.
    """
    room, catalogue = free - free // RESERVE, need.items * need.row_bytes
    row = need.row_bytes + KEPT_BYTES
    most = whole // (row * workers)
    least = KNOWN_BYTES * need.items + need.row_bytes * need.scratch
    shared, own = (catalogue, least) if need.shareable else (0, least + catalogue)
    if (all_ := shared + own * workers) <= room:
        # A successor as large is resident, too, where there is room for both.
        spare = room - all_ - (all_ if 2 * all_ <= room else 0)
        most = min(need.items, most)
        pool = min(most, spare // (row * workers))
        return Share(True, shared, own + row * pool, need.scratch, pool, most)
    left = room // workers - KNOWN_BYTES * need.items
    scratch = min(need.scratch, max(LEAST_SCRATCH, left // need.row_bytes // 2))
    most = min(2 * need.items, most)
    pool = min(most, (left - need.row_bytes * scratch) // row)
    if pool < 0:
        least = KNOWN_BYTES * need.items + need.row_bytes * LEAST_SCRATCH
        raise BundleError(
            f"the smallest table of items' state takes {least / 2**20:.1f} MiB in each of {workers} workers, "
            f"and {room / 2**20:.1f} MiB can be had for all of them; raise state_mib"
        )
    own = KNOWN_BYTES * need.items + need.row_bytes * scratch + row * pool
    return Share(False, 0, own, scratch, pool, most)


def grown(share: Share, row_bytes: int, free: int, reserve: int, workers: int) -> Share:
    """The share with as many more rows of the pool as the free bytes beyond the reserve are good for."""
    row = row_bytes + KEPT_BYTES
    # A resident table leaves room for a successor as large.
    spare = free - reserve - (share.bytes(workers) if share.resident else 0)
    more = min(share.most - share.pool, max(0, spare) // (row * workers))
    return replace(share, pool=share.pool + more, own=share.own + row * more)


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's part in a version's share, which may have grown since it was claimed."""

    version: str
    worker: str
    row_bytes: int
    share: Share


class Ledger:
    """The account of the state of all versions.

    Args:
        whole: bytes that there are for it.
        workers: that there are.
        folder: that they share; None where there is one, or nothing can be written there.
    """

    def __init__(self, whole: int, workers: int = 1, folder: Path | None = None) -> None:
        self.whole, self.workers, self.folder = whole, workers, folder
        self._own: dict[str, Share] = {}
        self._lock = Lock()
        if folder is not None:
            try:
                self.taken()
            except OSError as error:
                _log.warning("%s: no state is shared in this folder: %s", folder, error)
                self.folder = None

    def claim(self, version: str, need: Need) -> Claim:
        """A part in a version's share: as the other workers have it, or else of all that is free.

        Raises:
            BundleError: there is no room for the smallest table.
        """
        worker = f"{os.getpid()}.{token_hex(4)}"
        with self._account() as shares:
            while version in shares and len(shares[version].workers) >= self.workers:
                version += "+"  # one more than was counted on has a share of its own
            share = shares.get(version) or sized(
                need, self.whole - self._taken(shares), self.whole, self.workers
            )
            shares[version] = replace(share, workers=(*share.workers, worker))
            return Claim(version, worker, need.row_bytes, shares[version])

    def grow(self, claim: Claim) -> Share:
        """The version's share by now: larger, where another version has left."""
        with self._account() as shares:
            free = self.whole - self._taken(shares)
            share = grown(shares[claim.version], claim.row_bytes, free, self.whole // RESERVE, self.workers)
            shares[claim.version] = share
            return share

    def leave(self, claim: Claim) -> None:
        """Give a part back. With a version's last one goes the file that its workers shared."""
        with self._account() as shares:
            share = shares[claim.version]
            shares[claim.version] = replace(
                share, workers=tuple(worker for worker in share.workers if worker != claim.worker)
            )

    def taken(self) -> int:
        """What all versions take in all workers together, in bytes."""
        with self._account() as shares:
            return self._taken(shares)

    def file(self, version: str) -> Path | None:
        """Where workers share the catalogue's state of a version."""
        return None if self.folder is None else self.folder / f"{version}.state"

    def _taken(self, shares: Mapping[str, Share]) -> int:
        return sum(share.bytes(self.workers) for share in shares.values())

    @contextmanager
    def _account(self) -> Iterator[dict[str, Share]]:
        """Every version's share, to be read and changed by one at a time."""
        with self._lock:
            if self.folder is None:
                yield self._own
                self._without_left(self._own)
                return
            file = os.open(self.folder / "account", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                written = os.pread(file, ACCOUNT_BYTES, 0)
                shares = _SHARES.validate_json(written or b"{}")
                self._without_left(shares)
                yield shares
                self._without_left(shares)
                # In place and of one length: a full disk refuses the first time only.
                if (now := _SHARES.dump_json(shares).ljust(ACCOUNT_BYTES)) != written:
                    os.pwrite(file, now, 0)
            finally:
                os.close(file)

    def _without_left(self, shares: dict[str, Share]) -> None:
        """Drop the parts of workers that died, and the versions that nobody has any more."""
        for version, share in list(shares.items()):
            alive = tuple(worker for worker in share.workers if _lives(worker))
            if alive:
                shares[version] = replace(share, workers=alive)
                continue
            del shares[version]
            if (file := self.file(version)) is not None:
                file.unlink(missing_ok=True)


def _lives(worker: str) -> bool:
    try:
        os.kill(int(worker.partition(".")[0]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
