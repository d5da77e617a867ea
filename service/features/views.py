"""What a stored row is to one version: the fields that its own tables do not say already.

Worked out once for each cached row and version, for many rows at a time; a request then adds what differs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

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
)
from service.bundle.encoder import Encoder
from service.bundle.errors import FeatureError
from service.bundle.given import Fields, of_candidates
from service.bundle.schema import Scope
from service.bundle.spelling import text
from service.bundle.table import Table
from service.features.reads import TableReads
from service.features.store import Row, RowKey

T = TypeVar("T")


class Fault(NamedTuple):
    """A stored field that a version cannot read, and why."""

    field: str
    reason: str


@dataclass(slots=True, eq=False)
class View:
    """A stored row, or that there is none, as one version sees it. Not frozen, which takes thrice as long.

    Attributes:
        adds: values by path that differ from those of the version's own table; of a table whose key follows
            from the item, all that it reads, as that is told apart when the item is encoded.
        parts: texts of `TableReads.parts`, the stored one over the table's; None is missing.
        sound: can everything stored be read?
        faults: what cannot, field by field.
        silent: does it add nothing, and is sound?
    """

    adds: Mapping[str, Value]
    parts: tuple[str | None, ...]
    sound: bool
    faults: tuple[Fault, ...] = ()
    silent: bool = field(init=False)

    def __post_init__(self) -> None:
        self.silent = self.sound and not self.adds


def views(
    encoder: Encoder, reads: TableReads, keys: Sequence[RowKey], rows: Sequence[Row | None]
) -> list[View]:
    """Views ``[n]`` of the rows ``[n]`` with the given keys; a row is None where nothing is stored.

    A row of a version's own table counts as none: that version has it already, and to the others it says
    nothing.
    """
    stored = {at: row.fields for at, row in enumerate(rows) if row is not None and row.version is None}
    if not reads.parts and not stored:
        return [View({}, (), True)] * len(keys)
    names = sorted(reads.fields & frozenset().union(*stored.values()))
    # What stands in the table already is told apart when an item is encoded, once for all requests.
    compared = () if reads.scope is Scope.ITEM else names
    held = held_values(encoder.tables[reads.name], keys, {*compared, *reads.parts})
    paths = reads.paths
    adds: list[dict[str, Value]] = [{} for _ in keys]
    faults: defaultdict[int, list[Fault]] = defaultdict(list)
    if not compared and are_readable(encoder, reads, stored):
        for at, fields in stored.items():
            adds[at] = {paths[name]: value for name, value in fields.items() if name in paths}
    else:
        for name in names:
            path = paths[name]
            values = {at: fields[name] for at, fields in stored.items() if name in fields}
            telling, unreadable = _telling(encoder, reads, name, values, held[name] if compared else None)
            for at, value in telling.items():
                adds[at][path] = value
            for at, reason in unreadable.items():
                faults[at].append(Fault(name, reason))
    return _views(reads, adds, faults, held)


def _views(
    reads: TableReads,
    adds: Sequence[dict[str, Value]],
    faults: Mapping[int, Sequence[Fault]],
    held: Mapping[str, Sequence[Value]],
) -> list[View]:
    """Views ``[n]`` of rows that add something or nothing, over what is held."""
    parts: list[tuple[str | None, ...]] = [
        tuple([part_text(adds[at].get(f"{reads.name}.{name}", held[name][at])) for name in reads.parts])
        for at in range(len(adds) if reads.parts else 0)
    ] or [()] * len(adds)
    # Most rows say what the table does: one view for all that are alike stays at hand.
    alike = {part: View({}, part, True) for part in set(parts)}
    return [
        View(adds[at], parts[at], at not in faults, tuple(faults.get(at, ())))
        if adds[at] or at in faults
        else alike[parts[at]]
        for at in range(len(adds))
    ]


def are_readable(encoder: Encoder, reads: TableReads, stored: Mapping[int, Fields]) -> bool:
    """Can a version read everything that it reads of some rows? Told in one go for all of them."""
    try:
        for path, each in of_candidates(stored, reads.paths).items():
            _read(encoder, path, None, each.column)
    except FeatureError:
        return False
    return True


def _telling(
    encoder: Encoder, reads: TableReads, name: str, values: Mapping[int, Value], held: Sequence[Value] | None
) -> tuple[Mapping[int, Value], dict[int, str]]:
    """By position, the values that are not held; and why those cannot be read that cannot."""
    path, kind = f"{reads.name}.{name}", None
    telling, unreadable, same = values, dict[int, str](), set[int]()
    if held is not None:
        kind = encoder.tables[reads.name].columns.get(name)
        telling = {at: value for at, value in values.items() if value != held[at]}
    for positions, found in _pieces(telling, path, partial(_read, encoder, path, kind)):
        if isinstance(found, FeatureError):
            unreadable[positions[0]] = found.message
        elif held is not None:  # in another spelling, as "3" for 3.0
            same |= {at for at, value in zip(positions, _values(found), strict=True) if value == held[at]}
    if same or unreadable:
        telling = {at: value for at, value in telling.items() if at not in unreadable and at not in same}
    return telling, unreadable


def held_values(
    table: Table, keys: Sequence[tuple[str | None, ...]], names: Collection[str]
) -> dict[str, list[Value]]:
    """Values ``[n]`` of the rows with the given keys, by name, as a table has them."""
    if not names:
        return {}
    rows = table.rows(*zip(*(key[1:] for key in keys), strict=True))
    return {
        name: _values(table.columns[name].pick(rows)) if name in table.columns else [None] * len(keys)
        for name in names
    }


def _read(encoder: Encoder, path: str, kind: Column | None, column: Column) -> Column:
    """A column ``[n]`` as one of a kind. FeatureError where the version cannot read one of its values."""
    encoder.check(path, column)
    head, _, name = path.partition(".")
    if head == "item" and name in encoder.attributes:
        as_numbers(column, path)
    try:
        # One of another kind than the table's is not read so, and readable all the same.
        return column if kind is None else _as(kind, column, path)
    except FeatureError:
        return Numbers(np.full(len(column), math.nan))  # which is no value that is held


def _values(column: Column) -> list[Value]:
    """A column ``[n]`` as `Column.at` gives each."""
    if isinstance(column, Numbers):
        return [None if value != value else value for value in column.values.tolist()]
    return column.values.tolist() if isinstance(column, Texts) else list(map(column.at, range(len(column))))


def part_text(value: Value) -> str | None:
    """A part of a key as it is looked up; NaN is missing, and a list is no part of one."""
    return None if value is None or value != value or isinstance(value, list) else text(value)


def _pieces(
    values: Mapping[int, Value], path: str, read: Callable[[Column], T]
) -> Iterator[tuple[Sequence[int], T | FeatureError]]:
    """The positions of values, and what they are read as: all of them together, or else by halves.

    One that cannot be read comes alone, with what is wrong with it.
    """
    if not values:
        return
    positions, half = list(values), len(values) // 2
    try:
        found = read(column_of(list(values.values()), path))
    except FeatureError as error:
        if not half:
            yield positions, error
        for part in (positions[:half], positions[half:]) if half else ():
            yield from _pieces({at: values[at] for at in part}, path, read)
        return
    yield positions, found


def _as(kind: Column, column: Column, path: str) -> Column:
    match kind:
        case Numbers():
            return Numbers(as_numbers(column, path))
        case Texts():
            return Texts(as_texts(column, path))
        case Lists():
            return as_lists(column, path)
        case Vectors():
            vectors = as_vectors(column, kind.values.shape[1], path)
            return Vectors(vectors.astype(kind.values.dtype))
