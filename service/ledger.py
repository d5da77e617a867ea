"""Who has which share of the state's memory.

The first worker that loads a version decides how large its tables are, and the others do as it did. A share
is a file in the folder that the workers have in common. Who has it keeps the file locked, and a lock ends
with its process: what nobody has locked is free. A lone worker knows its own shares, and needs no files.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from pydantic import TypeAdapter

from service.budget import RESERVE, Need, Share, grown, sized
from service.mapping import lock

ACCOUNT_LIMIT_S = 10.0
"""how long to wait for other workers, which have the account for a moment each"""

SHARE_BYTES = 512
"""of a share's file: always as long, so that a full disk refuses the first time only"""

GONE = ".gone"
"""what a file is called that is about to be deleted"""

_SHARE = TypeAdapter(Share)
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Claim:
    """A worker's part in a share.

    Attributes:
        name: of the share: the version's, and when it was first claimed.
        row_bytes: of an item's state.
        share: as it was at the last look.
        file: the share's, open and locked until the claim is left; None where only this worker knows of it.
    """

    name: str
    row_bytes: int
    share: Share
    file: int | None


class Ledger:
    """The account of the state of all versions. Any thread may use it.

    Args:
        whole: bytes that there are for it.
        workers: that there are.
        folder: that they share; None where there is one, or nothing can be written there.
    """

    def __init__(self, whole: int, workers: int = 1, folder: Path | None = None) -> None:
        self.whole, self.workers, self.folder = whole, workers, folder
        self._claims: list[Claim] = []
        self._lock = Lock()
        self._complaint = ""
        try:
            self.taken()
        except OSError as error:
            _log.warning("%s: no state is shared in this folder: %s", folder, error)
            self.folder = None

    def claim(self, version: str, need: Need) -> Claim:
        """A part in a version's share: as other workers have it, or else of all that is free.

        Where the folder cannot be used, only what this worker has is not free, and nothing is shared.

        Raises:
            BundleError: there is no room for the smallest table.
        """
        try:
            with self._account() as shares:
                return self._claimed(version, need, shares, self.folder)
        except OSError as error:
            self._complain(error)
        with self._lock:
            return self._claimed(version, replace(need, shareable=False), self._own(), None)

    def grow(self, claim: Claim) -> Share:
        """The claim's share by now: larger, where another version has left."""
        try:
            with self._account() as shares:
                if claim in self._claims:
                    share, free = shares[claim.name], self.whole - self._taken(shares)
                    share = grown(share, claim.row_bytes, free, self.whole // RESERVE, self.workers)
                    if claim.file is not None:
                        _write(claim.file, share)
                    claim.share = share
        except OSError as error:
            self._complain(error)
        return claim.share

    def leave(self, claim: Claim) -> None:
        """Give a part back. With a version's last one goes the file that its workers shared."""
        with self._lock:
            if claim in self._claims:
                self._claims.remove(claim)
                if claim.file is not None:
                    os.close(claim.file)
        try:
            self.taken()
        except OSError as error:
            self._complain(error)

    def taken(self) -> int:
        """What all versions take in all workers together, in bytes.

        Raises:
            OSError: the folder cannot be used.
        """
        with self._account() as shares:
            return self._taken(shares)

    def fits_alone(self, need: Need) -> bool:
        """Would the whole catalogue be resident if there were no other version?"""
        return sized(need, self.whole, self.whole, self.workers).resident

    def file(self, claim: Claim) -> Path | None:
        """Where workers share the catalogue's state of a version."""
        return None if self.folder is None else self.folder / f"{claim.name}.state"

    def _claimed(self, version: str, need: Need, shares: Mapping[str, Share], folder: Path | None) -> Claim:
        own = {claim.name for claim in self._claims}
        # A worker that has the version already, and loads it anew, has another share of it.
        there = [name for name in shares if name.rpartition(".")[0] == version and name not in own]
        if there:
            name = max(there)
            share = shares[name]
        else:
            name = f"{version}.{time.time_ns()}"
            share = sized(need, self.whole - self._taken(shares), self.whole, self.workers)
        file = None if folder is None else _opened(folder / f"{name}.share", share)
        self._claims.append(claim := Claim(name, need.row_bytes, share, file))
        return claim

    def _taken(self, shares: Mapping[str, Share]) -> int:
        return sum(share.bytes(self.workers) for share in shares.values())

    def _own(self) -> dict[str, Share]:
        return {claim.name: claim.share for claim in self._claims}

    @contextmanager
    def _account(self) -> Iterator[dict[str, Share]]:
        """Every share that any worker has, by name, while no other worker and no other thread changes one."""
        try:
            with self._lock, nullcontext() if self.folder is None else _locked(self.folder):
                yield self._own() if self.folder is None else self._looked_up(self.folder)
        finally:
            if self.folder is not None:
                # Nobody waits for this, and a file of gigabytes takes long to go.
                for path in self.folder.glob(f"*{GONE}"):
                    with suppress(OSError):  # another worker was first, or it is tried again next time
                        path.unlink()

    def _looked_up(self, folder: Path) -> dict[str, Share]:
        for claim in self._claims:
            _renew(claim, folder / f"{claim.name}.share")
        shares = self._own()
        for path in folder.glob("*.share"):
            with path.open("rb") as file:
                if _is_locked(file.fileno()) and (share := _read(file.fileno())):
                    shares[path.stem] = share
        for path in folder.iterdir():
            if path.suffix in {".share", ".state", ".part"} and path.stem not in shares:
                path.rename(path.with_name(path.name + GONE))
        return shares

    def _complain(self, error: OSError) -> None:
        """Once, however often it fails the same way."""
        if self._complaint != (complaint := str(error)):
            _log.warning("%s: the account of the items' state cannot be used: %s", self.folder, error)
        self._complaint = complaint


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(file, ACCOUNT_LIMIT_S)
        yield
    finally:
        os.close(file)


def _opened(path: Path, share: Share) -> int:
    """A share's file, locked, as one of those who have it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _write(file, share)
    except BaseException:
        os.close(file)
        raise
    return file


def _renew(claim: Claim, path: Path) -> None:
    """Look how large a share is by now. Write it anew where its file was deleted or damaged."""
    if claim.file is None:
        claim.file = _opened(path, claim.share)
    elif not os.fstat(claim.file).st_nlink:
        gone, claim.file = claim.file, _opened(path, claim.share)
        os.close(gone)
    elif (share := _read(claim.file)) and share.pool >= claim.share.pool:
        claim.share = share
    else:
        _write(claim.file, claim.share)


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _read(file: int) -> Share | None:
    try:
        return _SHARE.validate_json(os.pread(file, SHARE_BYTES, 0))
    except ValueError:
        return None


def _write(file: int, share: Share) -> None:
    os.pwrite(file, _SHARE.dump_json(share).ljust(SHARE_BYTES), 0)
