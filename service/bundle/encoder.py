"""Raw values -> the arrays a model reads: the one encoder of trainer and service.

The tables' users and items are encoded once, when the encoder is made. A request then costs gathers by
row, the encoding of what it brings itself, and its crosses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import (
    Column,
    Rows,
    Strings,
    Table,
    Texts,
    Value,
    as_numbers,
    as_texts,
    column_of,
    strings,
)
from service.bundle.crosses import Crosses, KeyPart, Patch
from service.bundle.errors import FeatureError
from service.bundle.kinds import Match, Product
from service.bundle.rows import Columns, Entities, table_rows
from service.bundle.schema import ITEM_ID, USER_ID, FeatureSchema, Layout, Scope, Side
from service.bundle.slots import Slots
from service.bundle.source import Source
from service.bundle.vocabulary import AnyVocabulary

Fields = Mapping[str, Value]

HELD_SCOPES = {Side.USER: (Scope.USER, Scope.CONTEXT), Side.ITEM: (Scope.ITEM, Scope.LIVE)}
"""what is encoded ahead of time with a user, and with an item"""

ID_PATHS = {Side.USER: USER_ID, Side.ITEM: ITEM_ID}


@dataclass(frozen=True, slots=True)
class Encoded:
    """One request of ``N`` candidates, ready for the engine.

    Attributes:
        user: ``[1]``.
        item_row: rows ``[N]`` of the encoder's `items`; 0 is unknown.
        fresh: item columns ``[K]`` of the candidates that `items` does not hold as they are, or None.
        fresh_at: positions ``[K]`` of those candidates among the ``N``.
        cross: ``[N]``.
    """

    user: Columns
    item_row: Rows
    fresh: Columns | None
    fresh_at: Rows
    cross: Columns

    def __len__(self) -> int:
        return len(self.item_row)


class Encoder:
    """Encodes requests and logs by a fitted schema.

    Args:
        schema: fitted.
        vocabularies: by name, as the schema's `vocabulary` names them.
        tables: ``user``, ``item`` and every table that the schema names.

    Raises:
        FeatureError: a table or vocabulary is missing, or is not what the schema says.
    """

    def __init__(
        self, schema: FeatureSchema, vocabularies: Mapping[str, AnyVocabulary], tables: Mapping[str, Table]
    ) -> None:
        _check_tables(schema, tables)
        self.schema = schema
        self.tables = tables
        self.vocabularies = vocabularies
        self._slots = Slots(schema, vocabularies)
        self._features = {
            side: [f for scope in scopes for f in schema.in_scope(scope) if not isinstance(f, Match)]
            for side, scopes in HELD_SCOPES.items()
        }
        self._feature_reads = {feature.name: schema.feature_reads(feature) for feature in schema.features}
        self._constants = {f.source: f.serving for f in schema.column_features() if f.train_only}
        self._open = frozenset().union(*self._feature_reads.values()) - self._constants.keys()
        self._keys = _key_parts(schema)
        self._key_reads = {(name, at): schema.reads(schema.tables[name][at]) for name, at in self._keys}
        self._users = self._encoded_table(Side.USER)
        self._items = self._encoded_table(Side.ITEM)
        self._crosses = Crosses(schema, self._slots, tables, self._keys, self._items.columns)

    @property
    def items(self) -> Columns:
        """The item table, encoded ``[items + 1]``; row 0 is the unknown item."""
        return self._items.columns

    def user_row(self, user_id: str | None) -> int:
        """Row of a user in the user table, counted from 1; 0 is unknown."""
        return int(self.tables["user"].rows([user_id])[0])

    def item_rows(self, item_ids: Iterable[str]) -> Rows:
        """Rows ``[N]`` of items in `items`; 0 is unknown."""
        return self.tables["item"].rows(item_ids)

    def attribute(self, name: str, item_row: Rows, inline: Mapping[int, Fields]) -> NDArray[np.float64]:
        """An item field as numbers ``[N]`` for the fusion formula; NaN where it is missing.

        Raises:
            FeatureError: an inline value is no number.
        """
        path = f"item.{name}"
        column = self.tables["item"].columns.get(name)
        numbers = np.full(len(item_row), np.nan)
        if column is not None:
            numbers[:] = as_numbers(column.pick(item_row), path)
        given = {position: fields[name] for position, fields in inline.items() if name in fields}
        if given:
            numbers[list(given)] = as_numbers(column_of(list(given.values()), path), path)
        return numbers

    def request(
        self,
        user_id: str | None,
        user: Fields,
        context: Fields,
        item_ids: Sequence[str],
        inline: Mapping[int, Fields],
    ) -> Encoded:
        """Encode one request. What it brings beats the tables; fields that no feature reads are passed over.

        Args:
            user_id: None where there is none.
            user: fields of the user's, by name.
            context: fields of the context's, by name.
            item_ids: ``N`` candidates.
            inline: item fields of single candidates, by position. A name ``table.field`` is another table's.

        Raises:
            FeatureError: a value of another kind than its feature's.
        """
        given = self._given(Side.USER, [user]) | self._given(Scope.CONTEXT, [context])
        users = self._entities(Side.USER, [user_id], given)
        item_row = self.item_rows(item_ids)
        items = self._items.take(item_row)
        patches: list[Patch] = []
        changed = [np.empty(0, np.int64)]
        for positions in _alike(item_row, inline):
            given = self._given(Side.ITEM, [inline.get(position, {}) for position in positions.tolist()])
            anew = self._entities(Side.ITEM, [item_ids[position] for position in positions], given)
            changed.append(positions[anew.columns.differs(items.columns.take(positions))])
            items.put(positions, anew)
            patches.append((positions, given))
        cross = self._crosses.encode(users, items, patches)
        fresh_at = np.concatenate(changed).astype(np.int32)
        fresh = items.columns.take(fresh_at) if len(fresh_at) else None
        return Encoded(users.columns, item_row, fresh, fresh_at, cross)

    def log(
        self, user_ids: Strings, item_ids: Strings, given: Mapping[str, Column], *, serving: bool
    ) -> tuple[Columns, Columns, Columns]:
        """Encode impressions: user, item and cross columns, ``[N]`` each.

        Args:
            user_ids: of the ``N`` impressions.
            item_ids: of the ``N`` impressions.
            given: the context (``context.hour``) and what else was known at the impression, by path.
            serving: give `train_only` features the constants that serving gives them.
        """
        if serving:
            given = {path: column for path, column in given.items() if path not in self._constants}
        users = self._entities(Side.USER, user_ids, given, () if serving else self._constants)
        items = self._entities(Side.ITEM, item_ids, given)
        whole = np.arange(len(item_ids))
        return users.columns, items.columns, self._crosses.encode(users, items, [(whole, given)])

    def _given(self, head: str, fields: Sequence[Fields]) -> dict[str, Column]:
        """Columns of the fields that some feature reads; the rows name the same fields."""
        paths = {name: name if "." in name else f"{head}.{name}" for name in fields[0]}
        return {
            path: column_of([row[name] for row in fields], path)
            for name, path in paths.items()
            if path in self._open
        }

    def _entities(
        self,
        side: Side,
        ids: Iterable[str | None],
        given: Mapping[str, Column],
        changed: Collection[str] = (),
    ) -> Entities:
        """Users or items ``[n]``: as the table holds them, but for what reads a given or changed path."""
        rows = self.tables[side].rows(ids)
        entities = (self._users if side is Side.USER else self._items).take(rows)
        own_id = ID_PATHS[side]
        changed = {*changed, *given, *(() if rows.all() else (own_id,))}
        if changed:
            known = {**given, own_id: Texts(strings(ids))}
            self._fill(side, entities, Source(self.schema, self.tables, {side: rows}, known), changed)
        return entities

    def _encoded_table(self, side: Side) -> Entities:
        """Every row of the table, row 0 the unknown one, in the context of nothing known but constants."""
        size = len(self.tables[side])
        table = self._blank(side, size + 1)
        for rows in table_rows(size):
            chunk = self._blank(side, len(rows))
            known = {path: column_of([value] * len(rows), path) for path, value in self._constants.items()}
            self._fill(side, chunk, Source(self.schema, self.tables, {side: rows}, known), None)
            table.put(rows, chunk)
        return table

    def _blank(self, side: Side, n: int) -> Entities:
        layouts = self._slots.layouts
        live = Columns.zeros(n, layouts[Side.CROSS] if side is Side.ITEM else Layout((), ()))
        parts = sum(owner is side for owner, _ in self._keys.values())
        return Entities(Columns.zeros(n, layouts[side]), live, np.zeros((n, parts), np.int64))

    def _fill(self, side: Side, entities: Entities, source: Source, changed: Collection[str] | None) -> None:
        """Encode the features and key parts that read a changed path; all of them for None."""
        sides = {side: entities.columns, Side.CROSS: entities.live}
        for feature in self._features[side]:
            if changed is not None and self._feature_reads[feature.name].isdisjoint(changed):
                continue
            if isinstance(feature, Product):
                self._slots.put_product(feature, sides)
            else:
                self._slots.put(feature.name, self._slots.encode(feature, source.read(feature.source)), sides)
        for (table, part), (owner, at) in self._keys.items():
            if owner is side and (changed is None or not self._key_reads[table, part].isdisjoint(changed)):
                path = self.schema.tables[table][part]
                entities.keys[:, at] = self.tables[table].index.codes(part, as_texts(source.read(path), path))


def _key_parts(schema: FeatureSchema) -> dict[KeyPart, tuple[Side, int]]:
    """Key parts of the tables looked up by user and item together: whose each is, and its place there."""
    looked_up = {
        f.source.partition(".")[0] for f in schema.column_features() if schema.scope(f) is Scope.CROSS
    }
    owned: dict[Side, int] = defaultdict(int)
    parts: dict[KeyPart, tuple[Side, int]] = {}
    for table in sorted(looked_up):
        for part, path in enumerate(schema.tables[table]):
            side = Side.USER if schema.path_scope(path) in (Scope.USER, Scope.CONTEXT) else Side.ITEM
            parts[table, part] = (side, owned[side])
            owned[side] += 1
    return parts


def _check_tables(schema: FeatureSchema, tables: Mapping[str, Table]) -> None:
    for name in ("user", "item", *schema.tables):
        if name not in tables:
            raise FeatureError(
                name, "is a table that the features read, and the bundle has none of that name"
            )
        parts = len(schema.tables.get(name, ("id",)))
        if len(tables[name].keys) != parts:
            raise FeatureError(
                name, f"has a key of {len(tables[name].keys)} parts where the schema states {parts}"
            )
    for path in chain((f.source for f in schema.column_features()), *schema.tables.values()):
        head, _, field = path.partition(".")
        if head in schema.tables and field not in tables[head].columns:
            raise FeatureError(path, f"is no column of table {head!r}")


def _alike(item_row: Rows, inline: Mapping[int, Fields]) -> Iterator[NDArray[np.int64]]:
    """Positions of the candidates to encode anew, in groups that bring the same fields."""
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    for position in np.flatnonzero(item_row == 0).tolist():
        if position not in inline:
            groups[frozenset()].append(position)
    for position, fields in inline.items():
        groups[frozenset(fields)].append(position)
    yield from (np.array(positions, np.int64) for positions in groups.values())
