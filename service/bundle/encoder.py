"""Raw values -> the arrays a model reads: the one encoder of trainer and service.

The tables' users and items are encoded once, when the encoder is made. A request then costs gathers by
row, the encoding of what it brings itself, and its crosses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Numbers, Rows, Strings, Texts, as_numbers, as_texts, column_of
from service.bundle.crosses import Crosses, key_parts
from service.bundle.errors import FeatureError
from service.bundle.given import (
    OF_USER,
    Fields,
    Given,
    Inline,
    Positions,
    alike,
    names_of,
    of_all,
    of_candidates,
    placed,
)
from service.bundle.kinds import Match, Product
from service.bundle.rows import Columns, Encoded, Entities, Items, table_rows
from service.bundle.schema import ITEM_ID, USER_ID, FeatureSchema, Layout, Scope, Side
from service.bundle.slots import ALL, Slots
from service.bundle.source import Source, check_tables
from service.bundle.table import Table
from service.bundle.vocabulary import AnyVocabulary, Vocabulary

HELD_SCOPES = {Side.USER: OF_USER, Side.ITEM: (Scope.ITEM, Scope.LIVE)}
"""what is encoded ahead of time with a user, and with an item"""

ID_PATHS = {Side.USER: USER_ID, Side.ITEM: ITEM_ID}


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
        check_tables(schema, tables)
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
        given = frozenset().union(*self._feature_reads.values()) - {*self._constants, *ID_PATHS.values()}
        self._names = {scope: names_of(schema, scope, given) for scope in (*OF_USER, Scope.ITEM)}
        self._keys = key_parts(schema)
        self._key_reads = {(name, at): schema.reads(schema.tables[name][at]) for name, at in self._keys}
        self._users = self._encoded_table(Side.USER)
        self._items = self._encoded_table(Side.ITEM)
        self._crosses = Crosses(schema, self._slots, tables, self._keys, self._items.columns)
        self._crossing = bool(schema.in_scope(Scope.CROSS))
        # What crosses read of a known item, whose other columns the engine holds as state.
        none = Columns.zeros(len(self.items), Layout((), ()))
        self._crossed = self._items if self._crosses.read_items else replace(self._items, columns=none)

    @property
    def items(self) -> Columns:
        """The item table, encoded ``[items + 1]``; row 0 is the unknown item."""
        return self._items.columns

    def user_row(self, user_id: str | None) -> int:
        """Row of a user in the user table, counted from 1; 0 is unknown."""
        return self.tables["user"].index.code(0, user_id)  # of the only part: it counts the keys as they came

    def item_rows(self, item_ids: Iterable[str]) -> Rows:
        """Rows ``[N]`` of items in `items`; 0 is unknown."""
        return self.tables["item"].rows(item_ids)

    @property
    def attributes(self) -> frozenset[str]:
        """The item fields that are numbers: what `attribute` gives, and so what a formula may read."""
        columns = self.tables["item"].columns
        return frozenset(name for name, column in columns.items() if isinstance(column, Numbers))

    def attribute(
        self, name: str, item_row: Rows, inline: Inline, items: Items | None = None
    ) -> NDArray[np.float64]:
        """An item field as numbers ``[N]`` for the fusion formula, as in `request`; NaN where it is missing.

        Raises:
            FeatureError: the field is none of `attributes`, or an inline value is no number.
        """
        path = f"item.{name}"
        column = self.tables["item"].columns.get(name)
        if not isinstance(column, Numbers):
            raise FeatureError(path, "is no item field of numbers, and a formula reads no other")
        numbers, names = column.pick(item_row).values, {name: path, path: path}
        if items is not None and len(items.revised):
            numbers[items.revised] = items.numbers[name]
        try:
            for given in of_candidates(inline, names).values():
                numbers[given.rows] = as_numbers(given.column, path)
        except FeatureError as error:
            raise placed(error, inline, names, lambda values: as_numbers(values, path)) from None
        return numbers

    def reads(self, scope: Scope, fields: Fields) -> bool:
        """Does some feature read one of the fields that a request gives its user, context or candidate?"""
        return not self._names[scope].keys().isdisjoint(fields)

    def request(
        self,
        user_id: str | None,
        user: Fields,
        context: Fields,
        item_ids: Sequence[str],
        inline: Inline,
        items: Items | None = None,
    ) -> Encoded:
        """Encode one request. What it brings beats the tables; fields that no feature reads are passed over.

        Args:
            user_id, user, context: None where there is no user's; fields of theirs, by name.
            item_ids: ``N`` candidates.
            inline: item fields of single candidates, by position. A name ``table.field`` is another table's.
            items: the candidates as they stand now; as the item table has them for None. None of them both is
                revised and brings fields of an item.

        Raises:
            FeatureError: a value of another kind than its feature's.
        """
        user_row, users = self._user(user_id, {Scope.USER: user, Scope.CONTEXT: context})
        item_row, names = self.item_rows(item_ids) if items is None else items.row, self._names[Scope.ITEM]
        if not inline and (items is None or not len(items.revised)) and item_row.all():
            if self._crossing:
                cross = self._crosses.encode(users, self._crossed.take(item_row), {})
            else:
                cross = self._items.live.take(item_row)
            return Encoded.known(users.columns, user_row, item_row, cross)
        try:
            given = of_candidates(inline, names)
            candidates = self._entities(Side.ITEM, item_ids, item_row, given, items)
            cross = self._crosses.encode(users, candidates, given)
        except FeatureError as error:
            raise placed(error, inline, names, partial(self.check, error.field)) from None
        at, ids = self._touched(item_row, given, items)
        changed = candidates.columns.take(at).differs(self.items.take(item_row[at]))
        fresh_at = at[changed].astype(np.int32)
        fresh = candidates.columns.take(fresh_at) if len(fresh_at) else None
        return Encoded(users.columns, user_row, item_row, fresh, fresh_at, ids[fresh_at], cross)

    def revised(self, item_row: Rows, given: Mapping[str, Given]) -> Entities:
        """Known items ``[k]`` encoded with what is given of some of them, by path, in place of the table's.

        Raises:
            FeatureError: a value of another kind than its feature's.
        """
        read = {path: each for path, each in given.items() if path in self._names[Scope.ITEM]}
        return self._entities(Side.ITEM, (), item_row, read)

    def log(
        self, user_ids: Strings, item_ids: Strings, given: Mapping[str, Column], *, serving: bool
    ) -> tuple[Columns, Columns, Columns]:
        """Encode impressions: user, item and cross columns, ``[N]`` each.

        Args:
            user_ids, item_ids: of the ``N`` impressions.
            given: the context (``context.hour``) and what else was known at the impression, by path.
            serving: give `train_only` features the constants that serving gives them.
        """
        rows: dict[str, Rows] = {
            Side.USER: self.tables["user"].rows(user_ids),
            Side.ITEM: self.tables["item"].rows(item_ids),
        }
        if serving:
            known = {path: column for path, column in given.items() if path not in self._constants}
        else:
            # Where the log does not tell them they are missing, and not what serving takes them for.
            source = Source(self.schema, self.tables, rows, given)
            known = {**given, **{path: source.read(path) for path in self._constants}}
        brought = of_all(known, len(item_ids))
        users = self._entities(Side.USER, user_ids, rows[Side.USER], brought)
        items = self._entities(Side.ITEM, item_ids, rows[Side.ITEM], brought)
        return users.columns, items.columns, self._crosses.encode(users, items, brought)

    def close(self) -> None:
        """Give the memory back. Tables and vocabularies are of no use any more."""
        for table in self.tables.values():
            table.forget()
        for vocabulary in self.vocabularies.values():
            if isinstance(vocabulary, Vocabulary):
                vocabulary.forget()

    def _user(self, user_id: str | None, brings: Mapping[Scope, Fields]) -> tuple[int, Entities]:
        """A request's user ``[1]``, with the fields of each scope that some feature reads; and the row."""
        row, given = self.user_row(user_id), dict[str, Column]()
        for scope, fields in brings.items():
            paths = self._names[scope]
            given |= {at: column_of([value], at) for name, value in fields.items() if (at := paths.get(name))}
        if row and not given:
            return row, self._users.part(slice(row, row + 1))
        return row, self._entities(Side.USER, [user_id], np.array([row], np.int32), of_all(given, 1))

    def check(self, path: str, column: Column) -> None:
        """Raise FeatureError where something that reads the path cannot read the column."""
        self._slots.check(path, column)

    def _entities(
        self,
        side: Side,
        ids: Sequence[str | None] | Strings,
        rows: Rows,
        given: Mapping[str, Given],
        items: Items | None = None,
    ) -> Entities:
        """Users or items ``[n]``: as the rows of the table, or revised, but for what reads a given path."""
        entities = (self._users if side is Side.USER else self._items).take(rows)
        if items is not None and len(items.revised):
            entities.put(items.revised, items.entities)
        own_id = ID_PATHS[side]
        known = {path: each for path, each in given.items() if path != own_id}
        unknown = np.flatnonzero(rows == 0)
        if len(unknown):
            known[own_id] = Given(unknown, Texts(np.array(ids, np.object_)[unknown]))
        if known:
            self._fill(side, entities, rows, known)
        return entities

    def _touched(
        self, item_row: Rows, given: Mapping[str, Given], items: Items | None
    ) -> tuple[Positions, NDArray[np.int64]]:
        """Positions of the candidates that may not be as in the item table; and each one's id ``[N]``."""
        ids = np.zeros(len(item_row), np.int64)
        touched = item_row == 0
        for each in given.values():
            touched[each.rows] = True
        if items is not None:
            touched[items.revised], ids[items.revised] = True, items.ids
        return np.flatnonzero(touched), ids

    def _encoded_table(self, side: Side) -> Entities:
        """Every row of the table, row 0 the unknown one, in the context of nothing known but constants."""
        table = self._blank(side, len(self.tables[side]) + 1)
        for rows in table_rows(self.tables[side]):
            chunk = self._blank(side, len(rows))
            self._fill(side, chunk, rows, None)
            table.put(rows, chunk)
        return table

    def _blank(self, side: Side, n: int) -> Entities:
        layouts = self._slots.layouts
        live = Columns.zeros(n, layouts[Side.CROSS] if side is Side.ITEM else Layout((), ()))
        parts = sum(owner is side for owner, _ in self._keys.values())
        return Entities(Columns.zeros(n, layouts[side]), live, np.zeros((n, parts), np.int64))

    def _fill(self, side: Side, entities: Entities, rows: Rows, given: Mapping[str, Given] | None) -> None:
        """Encode the features and key parts that read a given path; all of them for None."""
        sides = {side: entities.columns, Side.CROSS: entities.live}

        def changed(reads: frozenset[str]) -> Iterable[tuple[Any, Source]]:
            everything: list[tuple[Any, dict[str, Column]]] = [(ALL, {})]
            for at, known in everything if given is None else alike(given, reads):
                yield at, Source(self.schema, self.tables, {side: rows[at]}, known, self._constants)

        for feature in self._features[side]:
            reads = self._feature_reads[feature.name]
            if given is not None and reads.isdisjoint(given):
                continue
            if not isinstance(feature, Product):
                for at, source in changed(reads):
                    slots = self._slots.encode(feature, source.read(feature.source))
                    self._slots.put(feature.name, slots, sides, at)
            else:
                self._slots.put_product(feature, sides)
        for (table, part), (owner, column) in self._keys.items():
            if owner is side:
                path = self.schema.tables[table][part]
                for at, source in changed(self._key_reads[table, part]):
                    texts = as_texts(source.read(path), path)
                    entities.keys[at, column] = self.tables[table].index.codes(part, texts)
