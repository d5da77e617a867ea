"""What a store should do to an encoder, the slow way: tables with the stored rows in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from service.bundle.columns import (
    Column,
    Lists,
    Numbers,
    Texts,
    Value,
    Vectors,
    as_lists,
    as_numbers,
    as_texts,
    as_vectors,
    column_of,
    strings,
)
from service.bundle.encoder import Encoder
from service.bundle.rows import Columns, Encoded
from service.bundle.table import Table
from service.features.brought import Brought
from service.features.store import RowKey


def merged(encoder: Encoder, stored: Mapping[RowKey, Mapping[str, Value]]) -> Encoder:
    """The encoder as if its tables had held the stored rows from the beginning."""
    tables = {
        name: _merged(table, {key[1:]: fields for key, fields in stored.items() if key[0] == name})
        for name, table in encoder.tables.items()
    }
    return Encoder(encoder.schema, encoder.vocabularies, tables)


def effective(encoder: Encoder, encoded: Encoded) -> list[Columns]:
    """What the graphs get to see: user, items and cross, whether or not an item is in a table."""
    items = encoder.items.take(encoded.item_row)
    if encoded.fresh is not None:
        items.put(encoded.fresh_at, encoded.fresh)
    return [encoded.user, items, encoded.cross]


def told_lengths(known: Brought) -> dict[int, Value]:
    """By position, the lengths that the store says: found for this request, or known of its item."""
    lengths = {at: fields["item.length"] for at, fields in known.inline.items() if "item.length" in fields}
    if known.items is not None and len(known.items.revised):
        revised, numbers = known.items.revised.tolist(), known.items.numbers["length"].tolist()
        lengths |= dict(zip(revised, numbers, strict=True))
    return lengths


def same(one: Sequence[Columns], other: Sequence[Columns]) -> bool:
    """Are all arrays equal?"""
    return all(
        np.array_equal(a.index, b.index) and np.array_equal(a.value, b.value)
        for a, b in zip(one, other, strict=True)
    )


def _merged(table: Table, stored: Mapping[tuple[str, ...], Mapping[str, Value]]) -> Table:
    rows = dict(table.each())
    keys = list(dict.fromkeys([*rows, *stored]))
    columns = {
        name: _like(column, [{**rows.get(key, {}), **stored.get(key, {})}.get(name) for key in keys])
        for name, column in table.columns.items()
    }
    return Table(table.name, [strings(part) for part in zip(*keys, strict=True)], columns)


def _like(kind: Column, values: Sequence[Value]) -> Column:
    match kind:
        case Numbers():
            return Numbers(as_numbers(column_of(values, "x"), "x"))
        case Texts():
            return Texts(as_texts(column_of(values, "x"), "x"))
        case Lists():
            return as_lists(column_of(values, "x"), "x")
        case Vectors():
            vectors = as_vectors(column_of(values, "x"), kind.values.shape[1], "x")
            return Vectors(vectors.astype(np.float32))
