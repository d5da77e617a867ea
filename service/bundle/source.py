"""Raw values by path: what a request or a log brings beats what the tables hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from service.bundle.columns import Column, Rows, Texts, Value, as_texts, column_of
from service.bundle.errors import FeatureError
from service.bundle.schema import ITEM_ID, USER_ID, FeatureSchema
from service.bundle.table import Table


@dataclass(frozen=True, slots=True)
class Source:
    """``n`` raw rows, each a user, an item or an impression.

    Attributes:
        schema: names the keys of the lookup tables.
        tables: by name.
        rows: of the tables ``user`` and ``item``, the row ``[n]`` behind each, counted from 1; 0 is unknown.
        given: whole columns ``[n]`` by path, which beat the tables.
        constants: what serving takes for a path that nobody can give, for all rows alike.
    """

    schema: FeatureSchema
    tables: Mapping[str, Table]
    rows: Mapping[str, Rows]
    given: Mapping[str, Column]
    constants: Mapping[str, Value] = field(default_factory=dict)

    def read(self, path: str) -> Column:
        """The column ``[n]`` of a path, missing values where nothing holds it."""
        if path in self.given:
            return self.given[path]
        if path in self.constants:
            return column_of([self.constants[path]] * len(self), path)
        head, _, name = path.partition(".")
        table = self.tables.get(head)
        if head in self.schema.tables and table is not None:
            parts = (as_texts(self.read(part), part) for part in self.schema.tables[head])
            return table.columns[name].pick(table.rows(*parts))
        if head in self.rows and table is not None:
            if path in (USER_ID, ITEM_ID):
                return Texts(table.keys[0]).pick(self.rows[head])
            if name in table.columns:
                return table.columns[name].pick(self.rows[head])
        return Texts(np.full(len(self), None, dtype=object))

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


def check_tables(schema: FeatureSchema, tables: Mapping[str, Table]) -> None:
    """Raise FeatureError unless there is every table and column that the features read, by keys that fit."""
    for name in ("user", "item", *schema.tables):
        if name not in tables:
            raise FeatureError(name, "is a table that the features read; the bundle has none of that name")
        parts = len(schema.tables.get(name, ("id",)))
        if len(tables[name].keys) != parts:
            raise FeatureError(
                name, f"has a key of {len(tables[name].keys)} parts where the schema states {parts}"
            )
    for path in chain((f.source for f in schema.column_features()), *schema.tables.values()):
        head, _, field = path.partition(".")
        if head in schema.tables and field not in tables[head].columns:
            raise FeatureError(path, f"is no column of table {head!r}")
