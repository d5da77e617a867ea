"""A row as bytes: a magic number with the format's version, the write stamp, the fields as MessagePack.

    RSF 1 | stamp_ms, unsigned, 8 bytes, the highest first | {"field": value, ...}
    RSF 1 | stamp_ms                                       | ["version", {"field": value, ...}]

The second is of a version's own table. The stamp has a fixed place, so that a store can compare two rows
without reading the fields.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from itertools import chain
from types import NoneType

import ormsgpack

from service.features.store import Row

MAGIC = b"RSF\x01"
MOST_BYTES = 2**16
"""of a packed row: a worker keeps tens of thousands of them near"""
_HEADER = struct.Struct(">4sQ")
_SINGLE = frozenset({str, int, float, bool})
_KINDS = _SINGLE | {list, NoneType}


class CorruptRow(ValueError):
    """Bytes that are no row; with the reason."""


class RowTooLarge(ValueError):
    """A row of more bytes than one may have; with how many, and the fix."""


def pack(row: Row) -> bytes:
    """A row as bytes.

    Raises:
        RowTooLarge: it is.
        TypeError, ValueError: a field is of no kind that a feature has.
    """
    fields = dict(row.fields)
    body = ormsgpack.packb(fields if row.version is None else [row.version, fields])
    packed = _HEADER.pack(MAGIC, row.stamp_ms) + body
    if len(packed) > MOST_BYTES:
        raise RowTooLarge(f"takes {len(packed):,} bytes, and a row has {MOST_BYTES:,}; shorten its lists")
    return packed


def are_small(rows: Iterable[Row]) -> bool:
    """Do rows of no version take no more bytes together than one may? Then none is too large."""
    return _HEADER.size + len(ormsgpack.packb([dict(row.fields) for row in rows])) <= MOST_BYTES


def unpack(packed: bytes) -> Row:
    """The row in some bytes. Raises CorruptRow where there is none."""
    if len(packed) < _HEADER.size:
        raise CorruptRow(f"{len(packed)} bytes are too short for a row")
    if len(packed) > MOST_BYTES:
        raise CorruptRow(f"{len(packed):,} bytes are more than the {MOST_BYTES:,} of a row")
    magic, stamp_ms = _HEADER.unpack_from(packed)
    if magic != MAGIC:
        raise CorruptRow(f"begins with {magic!r} and not with {MAGIC!r}: another format, or not ours")
    try:
        fields = ormsgpack.unpackb(packed[_HEADER.size :])
    except ValueError as error:
        raise CorruptRow(f"the fields cannot be read: {error}") from None
    version = None
    if type(fields) is list and len(fields) == 2 and type(fields[0]) is str:
        version, fields = fields
    if type(fields) is not dict or not are_values(fields.values()):
        raise CorruptRow("the fields are no mapping of names to single values and flat lists")
    return Row(stamp_ms, fields, version)


def are_values(values: Collection[object]) -> bool:
    """May all of these be fields of a row? Single values and flat lists may."""
    if _SINGLE.issuperset(map(type, values)):  # as most are
        return True
    kinds = set(map(type, values))
    lists = (value for value in values if isinstance(value, list))
    return kinds <= _KINDS and _SINGLE.issuperset(map(type, chain.from_iterable(lists)))
