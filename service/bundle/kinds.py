"""The kinds of features that a config declares, and the numbers that a log fits to them.

Knows nothing of how they hang together: that is `schema`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Path = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$", max_length=200)
]
Key = Annotated[
    tuple[Path, ...],
    Field(min_length=1),
    BeforeValidator(lambda key: (key,) if isinstance(key, str) else key),
]
"""of one path or several; one alone needs no brackets"""


class Frozen(BaseModel):
    """Data that cannot change, of which every key is known and every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Column(Frozen):
    """A feature that reads a path."""

    name: Name
    source: Path
    live: bool = False
    """the item's, but ever-changing: enters with every row, and is no part of the item's state"""
    train_only: bool = False
    """known only after the fact (a position): serving uses the constant `serving`"""
    serving: str | FiniteFloat | None = None


class Embedded(_Column):
    """A feature of categories, each of which has a row in an embedding table."""

    share: Name | None = None
    """use the vocabulary, and so the embedding, of this feature"""
    min_count: PositiveInt = 1
    hash_buckets: PositiveInt | None = None


class Categorical(Embedded):
    """One category -> one row of an embedding table."""

    kind: Literal["categorical"]


class Multi(Embedded):
    """Several categories -> the mean of their embeddings; of more than `max_length`, the first."""

    kind: Literal["multi"]
    max_length: PositiveInt = 8


class SequenceOfIds(Embedded):
    """Ids in time order, oldest first -> the mean of the embeddings of the last `max_length`."""

    kind: Literal["sequence"]
    max_length: PositiveInt = 50


class Numeric(_Column):
    """A number -> its standardised value and a flag where it is missing; or a bucket with an embedding.

    A standardised value ends at ±`features.BOUND`.
    """

    kind: Literal["numeric"]
    transform: Literal["none", "log1p", "logit"] = "none"
    standardise: bool = True
    buckets: PositiveInt | None = None


class Vector(_Column):
    """A vector of fixed width -> its numbers and a flag where it is missing."""

    kind: Literal["vector"]
    width: PositiveInt


class Match(Frozen):
    """Is the candidate's `item` feature in the user's `sequence`, and how often -> a flag and log1p(count).

    Where the two share no vocabulary, the sequence holds item ids, and each stands for its item's value.
    """

    kind: Literal["match"]
    name: Name
    item: Name
    sequence: Name


class Product(Frozen):
    """Two categorical or bucketed features -> one embedding row for each pair seen in training."""

    kind: Literal["product"]
    name: Name
    of: tuple[Name, Name]
    min_count: PositiveInt = 1


Feature = Annotated[
    Categorical | Multi | SequenceOfIds | Numeric | Vector | Match | Product, Field(discriminator="kind")
]
ColumnFeature = Categorical | Multi | SequenceOfIds | Numeric | Vector


class VocabularySpec(Frozen):
    """Size of an embedding table, row 0 included, and the seed of its hash where it is hashed."""

    rows: Annotated[int, Field(ge=1, lt=2**31)]
    hash_seed: int | None = None

    @model_validator(mode="after")
    def _has_buckets(self) -> Self:
        if self.hash_seed is not None and self.rows < 2:
            raise ValueError("a hashed vocabulary has a bucket at least: 2 rows or more")
        return self


class Scale(Frozen):
    """Standardisation: ``(x - mean) / deviation``."""

    mean: FiniteFloat = 0.0
    deviation: Annotated[FiniteFloat, Field(gt=0)] = 1.0


class Fitted(Frozen):
    """What the training part of a log taught the features, by feature name."""

    vocabularies: dict[str, VocabularySpec] = {}
    scales: dict[str, Scale] = {}
    edges: dict[str, tuple[FiniteFloat, ...]] = {}
    """where buckets end, after the transform, ascending"""


def is_bucketed(feature: Feature) -> bool:
    """Does the feature have an embedding row for each range of numbers?"""
    return isinstance(feature, Numeric) and feature.buckets is not None


def value_width(feature: Feature) -> int:
    """Slots of the value array that the feature takes."""
    if isinstance(feature, Match) or (isinstance(feature, Numeric) and not is_bucketed(feature)):
        return 2
    return feature.width + 1 if isinstance(feature, Vector) else 0
