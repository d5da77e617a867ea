"""What a stored row is to one version: the fields that its own tables do not say already.

Worked out once for each cached row and version, for many rows at a time; a request then adds what differs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

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
from service.bundle.spelling import text
from service.features.reads import TableReads
from service.features.store import Row, RowKey

T = TypeVar("T")


class Fault(NamedTuple):
    """A stored field that a version cannot read, and why."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A stored row, or that there is none, as one version sees it.

    Attributes:
        adds: values by path that differ from those of the version's own table.
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
        object.__setattr__(self, "silent", self.sound and not self.adds)


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
    table = encoder.tables[reads.name]
    own = table.rows(*zip(*(key[1:] for key in keys), strict=True))
    names = reads.fields & frozenset().union(*stored.values())
    held = {
        name: _values(table.columns[name].pick(own)) if name in table.columns else [None] * len(keys)
        for name in names.union(reads.parts)
    }
    adds: list[dict[str, Value]] = [{} for _ in keys]
    faults: defaultdict[int, list[Fault]] = defaultdict(list)
    for name in sorted(names):
        path = f"{reads.name}.{name}"
        of_field = {at: fields[name] for at, fields in stored.items() if name in fields}
        differing, unreadable = _differing(encoder, path, of_field, table.columns.get(name), held[name])
        for at, value in differing.items():
            adds[at][path] = value
        for at, reason in unreadable.items():
            faults[at].append(Fault(name, reason))
    parts = [
        tuple(part_text(adds[at].get(f"{reads.name}.{name}", held[name][at])) for name in reads.parts)
        for at in range(len(keys))
    ]
    # Most rows say what the table does: one view for all that are alike stays at hand.
    alike = {part: View({}, part, True) for part in set(parts)}
    return [
        View(adds[at], parts[at], at not in faults, tuple(faults.get(at, ())))
        if adds[at] or at in faults
        else alike[parts[at]]
        for at in range(len(keys))
    ]


def _differing(
    encoder: Encoder, path: str, values: Mapping[int, Value], kind: Column | None, held: Sequence[Value]
) -> tuple[dict[int, Value], dict[int, str]]:
    """By position, the values that a column does not hold; and why those cannot be read that cannot."""
    others = {at: value for at, value in values.items() if value != held[at]}
    differing, unreadable = dict(others), dict[int, str]()
    for positions, found in _pieces(others, path, lambda column: _read(encoder, path, kind, column)):
        if isinstance(found, FeatureError):
            unreadable[positions[0]] = found.message
            del differing[positions[0]]
            continue
        for at, value in zip(positions, found, strict=True):
            if value == held[at]:  # in another spelling, as "3" for 3.0
                del differing[at]
    return differing, unreadable


def _read(encoder: Encoder, path: str, kind: Column | None, column: Column) -> Sequence[Value]:
    """Values ``[n]`` as a column of a kind has them. FeatureError where the version cannot read one."""
    encoder.check(path, column)
    head, _, name = path.partition(".")
    if head == "item" and name in encoder.attributes:
        as_numbers(column, path)
    try:
        # One of another kind than the table's is not read so, and readable all the same.
        return _values(column if kind is None else _as(kind, column, path))
    except FeatureError:
        return [math.nan] * len(column)  # which is no value that is held


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
