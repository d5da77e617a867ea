"""Rows that an operator sends: whether they may be stored, and whether the versions in memory can read them.

What no version reads yet may be stored. What one reads and cannot make anything of would mark every answer
with that row as degraded, so it is refused while someone is there to mend it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.errors import InvalidRequest
from service.features.packed import RowTooLarge, are_small, pack
from service.features.reads import TableReads
from service.features.store import Row, RowKey
from service.features.views import are_readable, views

AT_ONCE = 200
"""Rows that are checked before others get their turn: some milliseconds."""

Sent = Sequence[tuple[RowKey, Mapping[str, Value]]]
Rows = Sequence[tuple[RowKey, Row]]
Reads = Sequence[TableReads]


async def check(
    rows: Sent, encoders: Callable[[], Mapping[str, Encoder]], reads: Callable[[Encoder], Reads]
) -> None:
    """Raise InvalidRequest, with the path of the culprit, where a row is too large or cannot be read.

    Args:
        rows: of one table, as they were sent.
        encoders: of the versions in memory now, by version; each may be gone when others had their turn.
        reads: what a version reads.
    """
    for start in range(0, len(rows), AT_ONCE):
        some = [(key, Row(0, fields)) for key, fields in rows[start : start + AT_ONCE]]
        _check_sizes(some, start)
        for version, encoder in encoders().items():
            _check_values(some, start, version, encoder, reads(encoder))
        await asyncio.sleep(0)


def _check_sizes(rows: Rows, start: int) -> None:
    if are_small(row for _, row in rows):  # as most are
        return
    for at, (_, row) in enumerate(rows, start):
        try:
            pack(row)
        except RowTooLarge as error:
            raise InvalidRequest(f"rows[{at}]", str(error)) from None


def _check_values(rows: Rows, start: int, version: str, encoder: Encoder, tables: Reads) -> None:
    for reads in tables:
        own = [
            (at, key, row)
            for at, (key, row) in enumerate(rows, start)
            if key[0] == reads.name and len(key) == 1 + len(reads.key)
        ]
        if are_readable(encoder, reads, {at: row.fields for at, _, row in own}):
            continue
        seen = views(encoder, reads, [key for _, key, _ in own], [row for *_, row in own])
        for (at, *_), view in zip(own, seen, strict=True):
            for field, reason in view.faults:
                raise InvalidRequest(f"rows[{at}].fields.{field}", f"{version} cannot read it: {reason}")
