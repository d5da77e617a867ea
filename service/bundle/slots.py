"""Where every feature stands in the arrays, and how its column gets there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Rows, Texts, as_texts
from service.bundle.errors import FeatureError
from service.bundle.features import encode_column
from service.bundle.kinds import Categorical, ColumnFeature, Embedded, Feature, Match, Product, is_bucketed
from service.bundle.rows import Columns
from service.bundle.schema import FeatureSchema, Side
from service.bundle.vocabulary import AnyVocabulary, PairVocabulary

Sides = Mapping[Side, Columns]

ALL = slice(None)

Edge = tuple[str, bool, int]
"""a table, whether in the index array, and a place in the array"""


class Slots:
    """The arrays of all sides.

    Args:
        schema: fitted.
        vocabularies: by name, as the schema's `vocabulary` names them.

    Raises:
        FeatureError: a vocabulary is missing, or not what the schema states.
    """

    def __init__(self, schema: FeatureSchema, vocabularies: Mapping[str, AnyVocabulary]) -> None:
        self._schema = schema
        self._vocabularies = vocabularies
        self.layouts = {side: schema.layout(side) for side in Side}
        blocks = [
            (side, block) for side in Side for block in (*self.layouts[side].index, *self.layouts[side].value)
        ]
        self._places = {block.feature: (side, block.slots) for side, block in blocks}
        self._embeddings = {block.feature: block.vocabulary for _, block in blocks if block.vocabulary}
        self._readers = {
            feature.source: [other for other in schema.column_features() if other.source == feature.source]
            for feature in schema.column_features()
        }
        self._key_paths = frozenset(chain.from_iterable(schema.tables.values()))
        self._pairs: dict[str, PairVocabulary] = {}
        for feature in schema.features:
            if isinstance(feature, Embedded | Product) or is_bucketed(feature):
                self._check(feature)

    def size(self, name: str) -> int:
        """Rows of the embedding table of a feature."""
        return self._schema.fitted.vocabularies[self._embeddings[name]].rows

    def operand(self, name: str, sides: Sides) -> Rows:
        """A feature's rows ``[n, width]``."""
        side, slots = self._places[name]
        return sides[side].index[:, slots]

    def encode(self, feature: ColumnFeature, column: Column) -> Rows | NDArray[np.float32]:
        """The feature's slots ``[n, width]``.

        Raises:
            FeatureError: a value of another kind than the feature's.
        """
        vocabulary = self._vocabularies.get(self._embeddings.get(feature.name, ""))
        return encode_column(feature, column, self._schema.fitted, vocabulary)

    def check(self, path: str, column: Column) -> None:
        """Raise FeatureError where something that reads the path cannot read the column."""
        for feature in self._readers.get(path, ()):
            if not (isinstance(feature, Categorical) and isinstance(column, Texts)):  # any text is a category
                self.encode(feature, column)
        if path in self._key_paths:
            as_texts(column, path)

    def put(self, name: str, encoded: NDArray[Any], sides: Sides, rows: slice | NDArray[Any] = ALL) -> None:
        """Write a feature's slots to the given rows of its side."""
        side, slots = self._places[name]
        array = sides[side].index if name in self._embeddings else sides[side].value
        array[rows, slots] = encoded

    def runs(self, features: Iterable[ColumnFeature]) -> list[list[ColumnFeature]]:
        """Features of one side in runs: of one table each, and side by side in one array."""
        ordered = sorted(features, key=self._edges)
        edges = pairwise(map(self._edges, ordered))
        apart = [at for at, ((_, end), (start, _)) in enumerate(edges, 1) if end != start]
        return [ordered[start:end] for start, end in pairwise(dict.fromkeys([0, *apart, len(ordered)]))]

    def put_run(self, run: Sequence[ColumnFeature], encoded: NDArray[Any], sides: Sides) -> None:
        """Write the slots of a run."""
        (side, first), (_, last) = self._places[run[0].name], self._places[run[-1].name]
        array = sides[side].index if run[0].name in self._embeddings else sides[side].value
        array[:, first.start : last.stop] = encoded

    def put_product(self, product: Product, sides: Sides) -> None:
        """Encode a product of features that are encoded already."""
        left, right = (self.operand(name, sides) for name in product.of)
        self.put(product.name, self._pairs[product.name].rows(left, right), sides)

    def put_match(self, match: Match, counts: NDArray[np.float32], sides: Sides) -> None:
        """Encode a match of which the counts ``[n]`` are known."""
        slots = np.empty((len(counts), 2), np.float32)
        slots[:, 0], slots[:, 1] = counts > 0, np.log1p(counts)
        self.put(match.name, slots, sides)

    def _edges(self, feature: ColumnFeature) -> tuple[Edge, Edge]:
        """Where the feature's slots begin, and where they end: there the next ones of its run begin."""
        _, slots = self._places[feature.name]
        table, embedded = table_of(feature), feature.name in self._embeddings
        return (table, embedded, slots.start), (table, embedded, slots.stop)

    def _check(self, feature: Feature) -> None:
        name, fitted = self._schema.vocabulary(feature), self._schema.fitted
        if name not in fitted.vocabularies:
            raise FeatureError(name, "has no fitted vocabulary; fit the schema to a log first")
        if is_bucketed(feature):
            edges = fitted.edges.get(name)
            if edges is None or any(a >= b for a, b in pairwise(edges)):
                raise FeatureError(name, "has no ascending bucket edges; fit the schema to a log first")
            rows = len(edges) + 2
        else:
            if name not in self._vocabularies:
                raise FeatureError(name, "has no vocabulary in this bundle")
            rows = len(self._vocabularies[name])
        if rows != fitted.vocabularies[name].rows:
            stated = fitted.vocabularies[name].rows
            raise FeatureError(name, f"has a vocabulary of {rows} rows where the schema states {stated}")
        if isinstance(feature, Product):
            self._pairs[name] = self._checked_pairs(feature)

    def _checked_pairs(self, product: Product) -> PairVocabulary:
        pairs = self._vocabularies[product.name]
        right = self._schema.vocabulary(self._schema.feature(product.of[1]))
        stated = self._schema.fitted.vocabularies.get(right)
        if not isinstance(pairs, PairVocabulary) or stated is None or pairs.stride != stated.rows:
            raise FeatureError(product.name, f"has no vocabulary of pairs with {right!r} on the right")
        return pairs


def table_of(feature: ColumnFeature) -> str:
    """The table that a feature reads a field of."""
    return feature.source.partition(".")[0]
