"""Fit a feature schema to the training part of a log: vocabularies, scales, buckets, pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Texts, as_lists, as_numbers, as_texts, strings
from service.bundle.encoder import Encoder
from service.bundle.errors import FeatureError
from service.bundle.features import transformed
from service.bundle.kinds import Categorical, Embedded, Fitted, Match, Numeric, Product, Scale, VocabularySpec
from service.bundle.schema import ITEM_ID, USER_ID, FeatureSchema, Scope, Side
from service.bundle.slots import Slots
from service.bundle.source import Source
from service.bundle.spelling import text
from service.bundle.vocabulary import AnyVocabulary, HashedVocabulary, PairVocabulary, Vocabulary
from training.impressions import Impressions, Log

HASH_SEED = 20

NAMED = 10
"""categories that a message names, of those there are"""


def fit_features(schema: FeatureSchema, train: Log) -> Encoder:
    """An encoder whose vocabularies, scales, buckets and pairs come from the training impressions alone.

    Args:
        schema: as declared.
        train: the training part of a log, with its tables.

    Raises:
        FeatureError: a value of another kind than its feature's, a path that the log does not hold or that is
            a label, or a serving constant that is no known category.
    """
    _check_no_outcome(schema, train.impressions.labels.keys() | train.outcomes)
    for feature in schema.column_features():
        check_held(feature.source, feature.name, schema, train)
    source = source_of(schema, train)
    vocabularies: dict[str, AnyVocabulary] = {}
    scales: dict[str, Scale] = {}
    edges: dict[str, tuple[float, ...]] = {}
    for feature in schema.column_features():
        if isinstance(feature, Numeric):
            numbers = _present(feature, source.read(feature.source))
            if feature.buckets is None:
                scales[feature.name] = _scale(feature, numbers)
            else:
                edges[feature.name] = _edges(numbers, feature.buckets)
        elif isinstance(feature, Embedded) and feature.share is None:
            vocabularies[feature.name] = _vocabulary(feature, source.read(feature.source))
    _check_constants(schema, vocabularies)
    fitted = Fitted(vocabularies=_specs(vocabularies, edges), scales=scales, edges=edges)
    products = [feature for feature in schema.features if isinstance(feature, Product)]
    if products:
        plain = tuple(f for f in schema.features if not isinstance(f, Product | Match))
        columns = FeatureSchema(features=plain, tables=schema.tables, fitted=fitted)
        vocabularies |= _pairs(products, columns, vocabularies, train)
        fitted = fitted.model_copy(update={"vocabularies": _specs(vocabularies, edges)})
    return Encoder(schema.model_copy(update={"fitted": fitted}), vocabularies, train.tables)


def given_columns(impressions: Impressions) -> dict[str, Column]:
    """What the impressions bring to the encoder, by path."""
    context = {f"context.{name}": column for name, column in impressions.context.items()}
    return {**context, **impressions.inline}


def check_held(path: str, reader: str, schema: FeatureSchema, log: Log) -> None:
    """Raise FeatureError for a path that nothing in the log holds: it would be missing in every row.

    Args:
        path: with the key of its table, if it is a table's.
        reader: what reads it, for the message.
        schema: knows the keys.
        log: the tables and the impressions.
    """
    known = {USER_ID, ITEM_ID, *given_columns(log.impressions)}
    known |= {f"{name}.{field}" for name, table in log.tables.items() for field in table.columns}
    for missing in sorted(schema.reads(path) - known):
        head = missing.partition(".")[0]
        there = ", ".join(sorted(other for other in known if other.startswith(f"{head}."))) or "nothing"
        raise FeatureError(missing, f"is read by {reader} and not in the log, which has {there}")


def _check_no_outcome(schema: FeatureSchema, outcomes: Collection[str]) -> None:
    """Raise FeatureError for a field of the user, item or context that is called as an outcome is.

    It would tell the model what it is to predict. A lookup table may have such a field: a rate of that event.
    """
    for feature in schema.column_features():
        for path in sorted(schema.reads(feature.source)):
            head, _, field = path.partition(".")
            if head in (Scope.USER, Scope.ITEM, Scope.CONTEXT) and field in outcomes:
                raise FeatureError(
                    path,
                    f"is read by {feature.name}, and {field!r} is an outcome, known only after the "
                    "impression; leave the feature out, or rename the field if it is something else",
                )


def _check_constants(schema: FeatureSchema, vocabularies: Mapping[str, AnyVocabulary]) -> None:
    """Raise FeatureError for a serving constant outside the vocabulary: a row that was never trained."""
    for feature in schema.column_features():
        if not isinstance(feature, Embedded) or feature.serving is None:
            continue
        known = vocabularies[schema.vocabulary(feature)]
        if isinstance(known, Vocabulary) and not known.rows([text(feature.serving)])[0]:
            named = ", ".join(map(repr, known.ids[:NAMED])) + (", …" if len(known.ids) > NAMED else "")
            raise FeatureError(
                feature.name,
                f"serving = {feature.serving!r} is no category of the training part, which has {named}",
            )


def source_of(schema: FeatureSchema, log: Log) -> Source:
    """The impressions' raw values."""
    users, items = log.impressions.user_id, log.impressions.item_id
    ids: dict[str, Column] = {USER_ID: Texts(users), ITEM_ID: Texts(items)}
    rows = {"user": log.tables["user"].rows(users), "item": log.tables["item"].rows(items)}
    return Source(schema, log.tables, rows, ids | given_columns(log.impressions))


def _vocabulary(feature: Embedded, column: Column) -> AnyVocabulary:
    """The categories that stand at least `min_count` times in the impressions, most frequent first."""
    if feature.hash_buckets is not None:
        return HashedVocabulary(feature.hash_buckets, HASH_SEED)
    values = (
        as_texts(column, feature.source)
        if isinstance(feature, Categorical)
        else as_lists(column, feature.source).values
    )
    counts = Counter(value for value in values if value is not None)
    kept = [(-count, value) for value, count in counts.items() if count >= feature.min_count]
    return Vocabulary(strings(value for _, value in sorted(kept)))


def _present(feature: Numeric, column: Column) -> NDArray[np.float64]:
    numbers = as_numbers(column, feature.source)
    if np.isinf(numbers).any():
        raise FeatureError(feature.source, "has an infinite number in the log; make it finite or missing")
    return transformed(feature, numbers[~np.isnan(numbers)])


def _scale(feature: Numeric, numbers: NDArray[np.float64]) -> Scale:
    if not feature.standardise or not len(numbers):
        return Scale()
    # A constant column has no deviation to divide by; what float error makes of it is not one.
    return Scale(mean=float(numbers.mean()), deviation=float(numbers.std()) if np.ptp(numbers) else 1.0)


def _edges(numbers: NDArray[np.float64], buckets: int) -> tuple[float, ...]:
    """Bounds between buckets that hold about as many impressions each; ties make fewer."""
    if not len(numbers):
        return ()
    inner = np.linspace(0, 1, buckets + 1)[1:-1]
    return tuple(np.unique(np.quantile(numbers, inner)).tolist())


def _pairs(
    products: Sequence[Product], schema: FeatureSchema, vocabularies: Mapping[str, AnyVocabulary], log: Log
) -> dict[str, AnyVocabulary]:
    """The pairs of each product that stand at least `min_count` times in the impressions."""
    rows = log.impressions
    encoder = Encoder(schema, vocabularies, log.tables)
    encoded = encoder.log(rows.user_id, rows.item_id, given_columns(rows), serving=False)
    sides, slots = dict(zip(Side, encoded, strict=True)), Slots(schema, vocabularies)
    pairs: dict[str, AnyVocabulary] = {}
    for product in products:
        left, right = (slots.operand(name, sides)[:, 0].astype(np.int64) for name in product.of)
        stride = schema.fitted.vocabularies[schema.vocabulary(schema.feature(product.of[1]))].rows
        joined, counts = np.unique(left * stride + right, return_counts=True)
        pairs[product.name] = PairVocabulary(joined[counts >= product.min_count], stride)
    return pairs


def _specs(
    vocabularies: Mapping[str, AnyVocabulary], edges: Mapping[str, tuple[float, ...]]
) -> dict[str, VocabularySpec]:
    """Rows of every embedding: a vocabulary's, or a bucket each and row 0 where the number is missing."""
    specs = {
        name: VocabularySpec(rows=len(v), hash_seed=v.seed if isinstance(v, HashedVocabulary) else None)
        for name, v in vocabularies.items()
    }
    return specs | {name: VocabularySpec(rows=len(inner) + 2) for name, inner in edges.items()}
