"""The encoder once more, a row and a value at a time: what `service.bundle.encoder` has to agree with."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.bundle.encoder import Encoder
from service.bundle.kinds import Categorical, Feature, Match, Multi, Numeric, Product, SequenceOfIds, Vector
from service.bundle.rows import Columns, Encoded
from service.bundle.schema import Side
from service.bundle.spelling import text
from service.bundle.table import Table
from service.bundle.vocabulary import AnyVocabulary, HashedVocabulary, PairVocabulary
from tests.tiny_features import tiny_vocabularies

Rows = dict[str, Any]


class Reference:
    """Encodes one candidate of one user in plain loops."""

    def __init__(self, encoder: Encoder) -> None:
        self.schema = encoder.schema
        self.vocabularies = tiny_vocabularies(dict(encoder.tables))
        self.tables = {name: _by_key(table) for name, table in encoder.tables.items()}

    def row(self, user_id: str | None, item_id: str, given: Mapping[str, Any]) -> dict[Side, tuple[Any, Any]]:
        """Index and value of each side; `given` are raw values by path."""
        raw = dict(given)
        for feature in self.schema.column_features():
            if feature.train_only:
                raw[feature.source] = feature.serving
        raw |= {"user.user_id": user_id, "item.item_id": item_id}
        sides = {}
        for side in Side:
            layout = self.schema.layout(side)
            sides[side] = tuple(
                [slot for block in blocks for slot in self.slots(self.schema.feature(block.feature), raw)]
                for blocks in (layout.index, layout.value)
            )
        return sides  # type: ignore[return-value]

    def read(self, path: str, raw: Rows) -> Any:
        """A raw value: given, of the user's or item's table, or looked up."""
        if path in raw:
            return raw[path]
        head, _, field = path.partition(".")
        parts = self.schema.tables.get(head, ("user.user_id",) if head == "user" else ("item.item_id",))
        key = tuple(None if (part := self.read(p, raw)) is None else text(part) for p in parts)
        return self.tables.get(head, {}).get(key, {}).get(field)

    def slots(self, feature: Feature, raw: Rows) -> list[float]:
        """The slots of one feature."""
        if isinstance(feature, Product):
            left, right = (self.slots(self.schema.feature(name), raw)[0] for name in feature.of)
            pairs = self.vocabularies[feature.name]
            assert isinstance(pairs, PairVocabulary)
            known = pairs.pairs.tolist()
            pair = left * pairs.stride + right
            return [known.index(pair) + 1 if pair in known else 0]
        if isinstance(feature, Match):
            count = self.count(feature, raw)
            return [float(count > 0), math.log1p(count)]
        value = self.read(feature.source, raw)
        if isinstance(feature, Numeric):
            return self.numeric(feature, value)
        if isinstance(feature, Vector):
            missing = not value or any(math.isnan(float(x)) for x in value)
            return [0.0] * feature.width + [1.0] if missing else [*map(float, value), 0.0]
        vocabulary = self.vocabularies[self.schema.vocabulary(feature)]
        if isinstance(feature, Categorical):
            return [row_of(vocabulary, None if value is None else text(value))]
        listed = [] if value is None else value if isinstance(value, list) else [value]
        kept = (
            listed[-feature.max_length :]
            if isinstance(feature, SequenceOfIds)
            else listed[: feature.max_length]
        )
        rows = [row_of(vocabulary, text(item)) for item in kept]
        return [*rows, *[0] * (feature.max_length - len(rows))]

    def numeric(self, feature: Numeric, value: Any) -> list[float]:
        """A bucket, or a standardised number with its flag."""
        fitted = self.schema.fitted
        if value is None or math.isnan(float(value)):
            return [0.0] if feature.buckets else [0.0, 1.0]
        number = math.log1p(max(float(value), 0)) if feature.transform == "log1p" else float(value)
        if feature.buckets:
            return [1 + sum(edge <= number for edge in fitted.edges[feature.name])]
        scale = fitted.scales.get(feature.name)
        return [(number - scale.mean) / scale.deviation if scale else number, 0.0]

    def count(self, match: Match, raw: Rows) -> int:
        """How often the candidate's values stand in the sequence, looking through ids where it holds ids."""
        item, sequence = self.schema.feature(match.item), self.schema.feature(match.sequence)
        assert isinstance(item, Categorical | Multi)
        assert isinstance(sequence, Multi | SequenceOfIds)
        mine = [row for row in self.slots(item, raw) if row]
        theirs = [row for row in self.slots(sequence, raw) if row]
        if self.schema.vocabulary(item) != self.schema.vocabulary(sequence):
            ids = {row_of(self.vocabularies["video"], key[0]): key[0] for key in self.tables["item"]}
            stored = ({"item.item_id": ids[int(row)]} for row in theirs)
            theirs = [row for id_row in stored for row in self.slots(item, id_row) if row]
        return sum(theirs.count(row) for row in mine)


def rows_of(encoder: Encoder, encoded: Encoded) -> tuple[Columns, Columns, Columns]:
    """The rows ``[N]`` of all sides that the graphs see in the end."""
    items = encoder.items.take(encoded.item_row)
    if encoded.fresh is not None:
        items.put(encoded.fresh_at, encoded.fresh)
    return encoded.user.take(np.zeros(len(encoded), int)), items, encoded.cross


def row_of(vocabulary: AnyVocabulary, value: str | None) -> int:
    """Row of one value."""
    if isinstance(vocabulary, HashedVocabulary):
        return 0 if value is None else 1 + zlib.crc32(value.encode(), vocabulary.seed) % vocabulary.buckets
    assert not isinstance(vocabulary, PairVocabulary)
    ids = vocabulary.ids.tolist()
    return ids.index(value) + 1 if value in ids else 0


def _by_key(table: Table) -> dict[tuple[str | None, ...], Rows]:
    return {
        key: {name: column.at(row) for name, column in table.columns.items()}
        for row, key in enumerate(zip(*table.keys, strict=True))
    }
