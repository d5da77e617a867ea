"""The state of a version's items: its arrays, filled ahead where the whole catalogue fits, else on demand.

What the budget allows decides between the two. Either way every item of a run has a row when the run needs
it, so no score depends on what happened to be held. Once it is open, it has one user at a time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from mmap import ALLOCATIONGRANULARITY
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from service.budget import Need
from service.bundle.columns import Rows
from service.bundle.manifest import Manifest, Precision, StateArray
from service.bundle.rows import Columns, Items
from service.chunks import parts
from service.ledger import Claim, Ledger
from service.mapping import Mapped, shared_file
from service.places import EVICTED, Places
from service.wanted import Wanted

Array = NDArray[Any]
Compute = Callable[[Columns], Sequence[Array]]
"""the state arrays' rows ``[n, …]`` of items ``[n]``, in the manifest's order"""

FILL_ROWS = 256
"""items a run when the state is filled: short enough to let requests in between"""

CROWDED = (
    "on demand only because other versions had the room when it was loaded; after a restart without them it "
    "is resident, and with a state_mib that has room for both it always is"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StateFigures:
    """How a version's state is held, and how often it was there.

    Attributes:
        mode: ``resident`` where the whole catalogue's is held, filled ahead.
        rows: items whose state this worker holds.
        bytes: that it may take in all workers together.
        dtype: of its arrays.
        shared: do the workers share the catalogue's?
        counts: items of runs so far whose state was there (``hit``) or was computed (``miss``), and items
            that lost their row to others (``evicted``).
        note: what an operator can do about the mode, or empty.
    """

    mode: Literal["resident", "on_demand"]
    rows: int
    bytes: int
    dtype: str
    shared: bool
    counts: Mapping[str, int]
    note: str = ""

    def __str__(self) -> str:
        size = f"{self.rows} {'shared ' * self.shared}rows of {self.dtype}, {self.bytes / 2**20:.1f} MiB"
        return f"{self.mode}: {size} at most{self.note and f'; {self.note}'}"


class State:
    """The state arrays of a version, and what is in them.

    Args:
        manifest: of the bundle.
        items: the item table, encoded ``[items + 1]``.
        compute: an item's state from its columns.
        ledger: how much memory there is.
        max_rows: most items that a run places at once.
        precision: that the arrays are read in.

    Raises:
        BundleError: the budget has no room for the smallest table.
    """

    def __init__(
        self,
        manifest: Manifest,
        items: Columns,
        compute: Compute,
        ledger: Ledger,
        max_rows: int,
        precision: Precision = "float32",
    ) -> None:
        self._specs = manifest.state_in(precision)
        self._items, self._compute, self._ledger = items, compute, ledger
        shareable = ledger.workers > 1 and ledger.folder is not None
        need = Need(len(items), row_bytes(self._specs), max_rows, shareable)
        key = _key(manifest, precision)
        try:
            self._open(key, need)
        except OSError as error:
            _log.warning("%s: the workers cannot share the items' state: %s", manifest.version, error)
            self._open(f"{key}.own", replace(need, shareable=False))
        _log.info("%s: the items' state is %s", manifest.version, self.figures())

    @property
    def max_rows(self) -> int:
        """Most items that `rows` can be asked for at once."""
        return self._claim.share.scratch

    @property
    def resident(self) -> int:
        """The first rows, which are the whole catalogue's and never change; 0 where it is not held."""
        return len(self._items) if self._claim.share.resident else 0

    @property
    def arrays(self) -> dict[str, Array]:
        """The state arrays ``[rows, …]`` by name."""
        return {spec.name: mapped.array for spec, mapped in zip(self._specs, self._mapped, strict=True)}

    def rows(self, wanted: Wanted) -> Rows:
        """The row ``[N]`` of every item, with its state in it.

        Raises:
            IndexError: a row that the catalogue does not have.
        """
        placed = self._places.place(wanted.row, wanted.at, wanted.id)
        if len(placed.missing):
            self._write(placed.into, self._compute(self._columns(wanted, placed.missing)))
            self._places.keep(placed)
        return placed.rows

    @property
    def room(self) -> int:
        """Items that could be held beside those that are; none where all are."""
        return 0 if self.resident else self._places.pool - self._places.held

    def recent(self) -> Rows:
        """Rows of the catalogue that are held on demand, the last used first. Any thread may ask."""
        return self._places.recent()

    def warm(self, rows: Rows) -> None:
        """Hold these rows of the catalogue, too; counted as nobody's."""
        self._hold(Wanted(rows, None, rows[:0], np.empty(0, np.int64)))

    def hold(self, items: Items) -> None:
        """Hold items ``[n]`` that are not as in the catalogue, too, by as few runs; counted as nobody's.

        None where they would take more than a little of the pool, whose rows others need.
        """
        columns = items.entities.columns
        at = np.flatnonzero((items.ids > 0) & columns.differs(self._items.take(items.row)))
        if len(at) > self._places.pool // EVICTED:
            return
        for part in parts(slice(0, len(at)), self.max_rows):
            some, own = at[part], np.arange(part.stop - part.start, dtype=np.int32)
            self._hold(Wanted(items.row[some], columns.take(some), own, items.ids[some]))

    def _hold(self, wanted: Wanted) -> None:
        counts = self._places.hits, self._places.misses
        try:
            self.rows(wanted)
        finally:
            self._places.hits, self._places.misses = counts

    def figures(self) -> StateFigures:
        """How the state is held by now."""
        places = self._places
        return StateFigures(
            mode="resident" if self._claim.share.resident else "on_demand",
            rows=places.held,
            bytes=self._claim.share.bytes(self._ledger.workers),
            dtype=", ".join(dict.fromkeys(spec.dtype for spec in self._specs)),
            shared=self._claim.share.shared > 0,
            counts={"hit": places.hits, "miss": places.misses, "evicted": places.evictions},
            note=self._note,
        )

    def count_anew(self) -> None:
        """Forget what was counted."""
        self._places.hits = self._places.misses = self._places.evictions = 0

    def grow(self) -> None:
        """Take what room other versions have left, where more is needed. Any thread may call it."""
        share = self._claim.share
        if self._places.full and share.pool < share.most:
            self._places.pool = self._ledger.grow(self._claim).pool

    def close(self) -> None:
        """Give the memory back. Nothing may be running, and it is of no use any more."""
        self._opened.close()
        # What computes is the engine's, which has this: no collection of garbage would find the two.
        del self._compute, self._items

    def _open(self, key: str, need: Need) -> None:
        with ExitStack() as opened:
            claim = self._claim = self._ledger.claim(key, need)
            opened.callback(self._ledger.leave, claim)
            share = claim.share
            rows = (need.items if share.resident else 0) + share.scratch + share.most
            # Behind the claim, as it is undone first; a file's last pages go with the last who has it open.
            file = self._filled_file(claim) if share.shared else None
            if file is not None:
                opened.callback(file.close)
            self._mapped = [Mapped((rows, *spec.shape[1:]), spec.dtype) for spec in self._specs]
            for mapped in self._mapped:
                opened.callback(mapped.close)
            if file is not None:
                for mapped, offset in zip(self._mapped, self._offsets(), strict=True):
                    mapped.lay_over(file, offset, need.items)
            elif share.resident:
                for start, outputs in self._catalogue():
                    self._write(slice(start, start + len(outputs[0])), outputs)
            self._places = Places(need.items, share.resident, share.scratch, share.pool, share.most)
            self._note = CROWDED if not share.resident and self._ledger.fits_alone(need) else ""
            self._opened = opened.pop_all()

    def _columns(self, wanted: Wanted, at: NDArray[np.intp]) -> Columns:
        """The columns of the items at some positions."""
        columns = self._items.take(wanted.row[at])
        if wanted.changed is not None:
            which = np.full(len(wanted.row), -1)
            which[wanted.at] = np.arange(len(wanted.at))
            changed = np.flatnonzero(which[at] >= 0)
            columns.put(changed, wanted.changed.take(which[at][changed]))
        return columns

    def _write(self, rows: Rows | slice, outputs: Sequence[Array]) -> None:
        for mapped, output in zip(self._mapped, outputs, strict=True):
            mapped.array[rows] = output

    def _catalogue(self) -> Iterator[tuple[int, Sequence[Array]]]:
        """The state of the whole catalogue, a piece at a time, and the row where each piece begins."""
        for start in range(0, len(self._items), FILL_ROWS):
            rows = np.arange(start, min(start + FILL_ROWS, len(self._items)))
            yield start, self._compute(self._items.take(rows))

    def _filled_file(self, claim: Claim) -> BinaryIO:
        """The catalogue's state in a file that the workers share: one array after another, each on a page."""
        path = self._ledger.file(claim)
        assert path is not None, "only what has a folder is shared. This is a bug."

        def fill(file: BinaryIO) -> None:
            for start, outputs in self._catalogue():
                for spec, offset, output in zip(self._specs, self._offsets(), outputs, strict=True):
                    file.seek(offset + start * row_bytes([spec]))
                    file.write(np.ascontiguousarray(output).data)

        return shared_file(path, fill)

    def _offsets(self) -> list[int]:
        sizes = [len(self._items) * row_bytes([spec]) for spec in self._specs]
        return [
            0,
            *np.cumsum(
                [-(-size // ALLOCATIONGRANULARITY) * ALLOCATIONGRANULARITY for size in sizes[:-1]]
            ).tolist(),
        ]


def row_bytes(specs: Sequence[StateArray]) -> int:
    """What the state of an item takes, in all arrays."""
    return sum(prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize for spec in specs)


def _key(manifest: Manifest, precision: Precision) -> str:
    """What this version's state is called among the workers: by its name, and by what it is made of."""
    made_of = f"{precision} {manifest.model_dump_json()}"
    return f"{manifest.version}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
