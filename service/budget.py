"""How much memory the state of a version takes in all workers, out of what there is for all versions.

What the workers share counts once, and what each has of its own as often as there are workers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.bundle.errors import BundleError

RESERVE = 16
"""one part in so many is left free, so that the next version of a swap has room for a table"""

LEAST_SCRATCH = 16
"""rows: what the smallest table has for the items of a run that it does not keep"""

KNOWN_BYTES = 4
"""of what a table knows about each item of the catalogue"""

KEPT_BYTES = 48
"""of what it knows about each row that it keeps"""


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
    """

    resident: bool
    shared: int
    own: int
    scratch: int
    pool: int
    most: int

    def bytes(self, workers: int) -> int:
        """Of so many workers together."""
        return self.shared + self.own * workers


def enough(items: int, row_bytes: int, scratch: int, pool: int) -> int:
    """Bytes that must be free for one worker to have a table of so many rows, on demand."""
    room = KNOWN_BYTES * items + row_bytes * scratch + (row_bytes + KEPT_BYTES) * pool
    return room + room // (RESERVE - 1) + 1


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
