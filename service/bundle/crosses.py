"""Features of request and item together: lookups by both, matches and products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows
from service.bundle.features import match_counts
from service.bundle.given import OF_USER, Given
from service.bundle.kinds import ColumnFeature, Match, Product
from service.bundle.rows import Columns, Entities, table_rows
from service.bundle.schema import FeatureSchema, Scope, Side
from service.bundle.slots import Slots, table_of
from service.bundle.table import Table

KeyPart = tuple[str, int]
"""a table, and which part of its key"""


@dataclass(frozen=True, slots=True)
class Held:
    """Features of one table that stand side by side.

    Attributes:
        table: its name.
        features: in the order of their slots.
        encoded: their slots ``[rows + 1, width]`` for every row of the table; row 0 is missing.
    """

    table: str
    features: Sequence[ColumnFeature]
    encoded: NDArray[Any]


class Crosses:
    """Encodes the cross side.

    Args:
        schema: fitted.
        slots: of the schema.
        tables: by name.
        keys: where each key part stands in the `keys` of the user or the item.
        items: the item table, encoded ``[items + 1]``; a `match` looks through it from an id to a value.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        slots: Slots,
        tables: Mapping[str, Table],
        keys: Mapping[KeyPart, tuple[Side, int]],
        items: Columns,
    ) -> None:
        self._schema = schema
        self._slots = slots
        self._tables = {name: table for name, table in tables.items() if (name, 0) in keys}
        self._keys = keys
        self._features = schema.in_scope(Scope.CROSS)
        self.read_items = any(isinstance(feature, Match | Product) for feature in self._features)
        """Does any of them read an item's own columns, beside its live ones and its parts of keys?"""
        self._through = {
            f.name: self._values_of_ids(f, items) for f in self._features if isinstance(f, Match)
        }
        columns = [f for f in self._features if not isinstance(f, Match | Product)]
        self._held = [self._encoded_table(run) for run in slots.runs(columns)]

    def encode(self, user: Entities, item: Entities, given: Mapping[str, Given]) -> Columns:
        """Cross columns ``[N]``.

        Args:
            user: ``[1]`` for a request, ``[N]`` for a log.
            item: ``[N]``; its `live` columns are filled in place and returned.
            given: what candidates brought, by path; it beats a lookup.
        """
        sides = {Side.USER: user.columns, Side.ITEM: item.columns, Side.CROSS: item.live}
        rows = {name: self._looked_up(name, user, item) for name in self._tables}
        for held in self._held:
            self._slots.put_run(held.features, held.encoded.take(rows[held.table], axis=0), sides)
        for feature in self._features:
            if isinstance(feature, Product):
                self._slots.put_product(feature, sides)
            elif isinstance(feature, Match):
                self._slots.put_match(feature, self._counts(feature, sides), sides)
            elif own := given.get(feature.source):
                self._slots.put(feature.name, self._slots.encode(feature, own.column), sides, own.rows)
        return item.live

    def _counts(self, match: Match, sides: Mapping[Side, Columns]) -> NDArray[np.float32]:
        item, sequence = (self._slots.operand(name, sides) for name in (match.item, match.sequence))
        return match_counts(item, sequence, self._through[match.name], self._slots.size(match.item))

    def _values_of_ids(self, match: Match, items: Columns) -> Rows | None:
        """Item id's row -> the item's values ``[ids, k]``; None where the match shares one vocabulary."""
        item, sequence = self._schema.feature(match.item), self._schema.feature(match.sequence)
        vocabulary = self._schema.vocabulary(sequence)
        if self._schema.vocabulary(item) == vocabulary:
            return None
        sides = {Side.ITEM: items}
        ids = self._slots.operand(self._schema.item_id(vocabulary).name, sides)[:, 0]
        values = self._slots.operand(match.item, sides)
        through = np.zeros((self._slots.size(match.sequence), values.shape[1]), np.int32)
        through[ids] = values
        through[0] = 0
        return through

    def _encoded_table(self, run: Sequence[ColumnFeature]) -> Held:
        """Features of a table, for every row of it; row 0 is missing."""
        table = self._tables[table_of(run[0])]
        columns = [(feature, table.columns[feature.source.partition(".")[2]]) for feature in run]
        encoded = [
            np.concatenate([self._slots.encode(feature, column.pick(rows)) for feature, column in columns], 1)
            for rows in table_rows(table)
        ]
        return Held(table.name, run, np.concatenate(encoded))

    def _looked_up(self, name: str, user: Entities, item: Entities) -> Rows:
        """Rows ``[N]`` of a table, by the key parts of user and item."""
        codes = []
        for part in range(len(self._schema.tables[name])):
            side, at = self._keys[name, part]
            codes.append((user if side is Side.USER else item).keys[:, at])
        return self._tables[name].index.rows(*codes)


def key_parts(schema: FeatureSchema) -> dict[KeyPart, tuple[Side, int]]:
    """Key parts of the tables looked up by user and item together: whose each is, and its place there."""
    looked_up = {
        f.source.partition(".")[0] for f in schema.column_features() if schema.scope(f) is Scope.CROSS
    }
    owned: dict[Side, int] = defaultdict(int)
    parts: dict[KeyPart, tuple[Side, int]] = {}
    for table in sorted(looked_up):
        for part, path in enumerate(schema.tables[table]):
            side = Side.USER if schema.path_scope(path) in OF_USER else Side.ITEM
            parts[table, part] = (side, owned[side])
            owned[side] += 1
    return parts
