"""A row as bytes: a magic number with the format's version, the write stamp, the fields as MessagePack.

    RSF 1 | stamp_ms, unsigned, 8 bytes, the highest first | {"field": value, ...}

The stamp has a fixed place, so that a store can compare two rows without reading the fields.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from itertools import chain
from types import NoneType

import ormsgpack

from service.features.store import Row

MAGIC = b"RSF\x01"
_HEADER = struct.Struct(">4sQ")
_SINGLE = frozenset({str, int, float, bool})
_KINDS = _SINGLE | {list, NoneType}


class CorruptRow(ValueError):
    """Bytes that are no row; with the reason."""


def pack(row: Row) -> bytes:
    """A row as bytes. TypeError or ValueError where a field is of no kind that a feature has."""
    return _HEADER.pack(MAGIC, row.stamp_ms) + ormsgpack.packb(dict(row.fields))


def unpack(packed: bytes) -> Row:
    """The row in some bytes. Raises CorruptRow where there is none."""
    if len(packed) < _HEADER.size:
        raise CorruptRow(f"{len(packed)} bytes are too short for a row")
    magic, stamp_ms = _HEADER.unpack_from(packed)
    if magic != MAGIC:
        raise CorruptRow(f"begins with {magic!r} and not with {MAGIC!r}: another format, or not ours")
    try:
        fields = ormsgpack.unpackb(memoryview(packed)[_HEADER.size :])
    except ValueError as error:
        raise CorruptRow(f"the fields cannot be read: {error}") from None
    if type(fields) is not dict or not _are_values(fields.values()):
        raise CorruptRow("the fields are no mapping of names to single values and flat lists")
    return Row(stamp_ms, fields)


def _are_values(values: Collection[object]) -> bool:
    kinds = set(map(type, values))
    lists = (value for value in values if isinstance(value, list)) if list in kinds else ()
    return kinds <= _KINDS and _SINGLE.issuperset(map(type, chain.from_iterable(lists)))
