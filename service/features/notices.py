"""A notice of changes as bytes: the keys of rows that were written, and where they are few the rows, too.

    [[[table, part, ...], ...], null]
    [[[table, part, ...], ...], [[stamp_ms, {field: value, ...}], ...]]

as MessagePack. A worker that has a row near need not ask for the new one then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import ormsgpack

from service.features.packed import are_values
from service.features.store import Row, RowKey

MOST_ROWS, MOST_BYTES = 200, 2**16
"""that a notice brings: every worker reads them, and may need none of a table that is loaded"""


def pack(rows: Mapping[RowKey, Row], size: int) -> tuple[bytes, bytes]:
    """The notice of rows that were written, by their keys alone; and the one that brings them.

    The second is the first where the rows are too many, or of a version's own table.

    Args:
        rows: by key.
        size: bytes that they take.
    """
    keys = [list(key) for key in rows]
    short = ormsgpack.packb([keys, None])
    if len(rows) > MOST_ROWS or size > MOST_BYTES or any(row.version is not None for row in rows.values()):
        return short, short
    return short, ormsgpack.packb([keys, [(row.stamp_ms, dict(row.fields)) for row in rows.values()]])


def unpack(notice: bytes) -> tuple[list[RowKey], dict[RowKey, Row]]:
    """The keys of the rows that have changed, and those rows that the notice brings: all of them, or none.

    Raises:
        TypeError, ValueError: it is no notice.
    """
    listed, brought = ormsgpack.unpackb(notice)
    _check("a key is no list", listed, list)
    keys: list[RowKey] = [(table, part, *parts) for table, part, *parts in listed]
    _check("a part of a key is no text", chain.from_iterable(keys), str)
    if brought is None:
        return keys, {}
    rows = [Row(stamp_ms, fields) for stamp_ms, fields in brought]
    _check("a stamp is no integer", (row.stamp_ms for row in rows), int)
    _check("the fields of a row are no mapping", (row.fields for row in rows), dict)
    if not are_values(list(chain.from_iterable(row.fields.values() for row in rows))):
        raise TypeError("a field is no single value and no flat list")
    return keys, dict(zip(keys, rows, strict=True))


def _check(fault: str, values: Iterable[object], kind: type) -> None:
    if not set(map(type, values)) <= {kind}:
        raise TypeError(fault)
