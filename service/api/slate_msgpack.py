"""A slate as MessagePack, written from its arrays: no object per item is made and checked again.

Keys and numbers of an item are bytes of a fixed width, so that those of all items are one array: a template
in every row, and a column of big-endian numbers at each number's place. A number that is not finite becomes
nil, which is shorter: such rows, and they are rare, are written one by one.
Types are those of https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import ormsgpack
from numpy.typing import NDArray

from service.api.slates import about, factors
from service.ranker import Slate

_NIL = b"\xc0"
_FLOAT = {4: b"\xca", 8: b"\xcb"}
_MAP = (0x80, b"\xde", b"\xdf")
_ARRAY = (0x90, b"\xdc", b"\xdd")


class _Column(NamedTuple):
    """Numbers of the items, in order, and the keys before each."""

    before: bytes
    values: NDArray[np.floating]
    """[K]"""


def encode(slate: Slate, request_id: str, *, tasks: bool) -> bytes:
    """A slate as the MessagePack of a `RankResponse`, the task scores in it where asked for."""
    head = about(slate, request_id)
    fields = [ormsgpack.packb(part) for pair in head.items() for part in pair]
    items = _items(slate, tasks=tasks)
    return b"".join(
        [_header(_MAP, len(head) + 1), *fields, _key("items"), _header(_ARRAY, len(slate.order)), *items]
    )


def _items(slate: Slate, *, tasks: bool) -> list[bytes]:
    """The pieces of the ranked items, in order."""
    order = slate.order
    columns = [_Column(_key("score"), slate.scores[order])]
    if tasks:
        before = _key("tasks") + _header(_MAP, len(slate.tasks))
        for name, scores in slate.tasks.items():
            columns.append(_Column(before + _key(name), scores[order]))
            before = b""
    parts = [
        [ormsgpack.packb(slate.ids[at]) for at in order.tolist()],
        _rows(columns),
    ]
    if slate.factors is not None:
        parts.append([_key("factors") + ormsgpack.packb(each) for each in factors(slate)])
    item = _header(_MAP, 2 + tasks + (slate.factors is not None)) + _key("id")
    pieces = [item, *(b"" for _ in parts)] * len(order)
    for at, column in enumerate(parts, 1):
        pieces[at :: len(parts) + 1] = column
    return pieces


def _rows(columns: list[_Column]) -> list[bytes]:
    """Keys and numbers of each item."""
    template, offsets = b"", []
    for before, values in columns:
        template += before + _FLOAT[values.itemsize]
        offsets.append(len(template))
        template += bytes(values.itemsize)
    names = [str(at) for at in range(len(columns))]
    formats = [_big_endian(values) for _, values in columns]
    layout: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": len(template)}
    written = bytearray(template * len(columns[0].values))
    rows: NDArray[Any] = np.frombuffer(written, np.dtype(layout))
    missing = np.zeros(len(rows), np.bool_)
    for name, (_, values) in zip(names, columns, strict=True):
        rows[name] = values
        missing |= ~np.isfinite(values)
    whole = bytes(written)
    pieces = [whole[at : at + len(template)] for at in range(0, len(whole), len(template))]
    for at in np.flatnonzero(missing).tolist():
        pieces[at] = b"".join(_row(columns, at))
    return pieces


def _row(columns: list[_Column], at: int) -> Iterator[bytes]:
    for before, values in columns:
        number = values[at : at + 1].astype(_big_endian(values)).tobytes()
        yield before + (_FLOAT[values.itemsize] + number if np.isfinite(values[at]) else _NIL)


def _big_endian(values: NDArray[np.floating]) -> np.dtype[Any]:
    return values.dtype.newbyteorder(">")


def _key(name: str) -> bytes:
    return ormsgpack.packb(name)


def _header(kind: tuple[int, bytes, bytes], count: int) -> bytes:
    """Of a map or an array of so many entries."""
    few, some, many = kind
    if count < 16:
        return bytes([few | count])
    return some + count.to_bytes(2, "big") if count < 2**16 else many + count.to_bytes(4, "big")
