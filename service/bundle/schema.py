"""What a model reads: how its features hang together, and the arrays they become.

A feature reads one *path*: ``user.age``, ``context.hour``, ``item.author`` or a field of another table,
``author_stats.click`` (a lookup: the table's key says by what). What it reads decides its scope, and the
scope the side of the model that it enters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Self

from pydantic import Field, model_validator

from service.bundle.errors import FeatureError
from service.bundle.kinds import (
    Categorical,
    ColumnFeature,
    Embedded,
    Feature,
    Fitted,
    Frozen,
    Key,
    Match,
    Multi,
    Name,
    Product,
    SequenceOfIds,
    is_bucketed,
    value_width,
)

USER_ID = "user.user_id"
ITEM_ID = "item.item_id"


class Scope(StrEnum):
    """What a feature depends on."""

    USER = "user"
    CONTEXT = "context"
    """the request's context, alone or with the user"""
    ITEM = "item"
    LIVE = "live"
    """the item, but ever-changing: no part of the item's state"""
    CROSS = "cross"
    """the request and the item together"""


class Side(StrEnum):
    """Which of the model's inputs a feature enters."""

    USER = "user"
    ITEM = "item"
    CROSS = "cross"


SCOPES_OF = {
    Side.USER: (Scope.USER, Scope.CONTEXT),
    Side.ITEM: (Scope.ITEM,),
    Side.CROSS: (Scope.LIVE, Scope.CROSS),
}


@dataclass(frozen=True, slots=True)
class Block:
    """Where a feature stands in an array of its side: slots ``start`` to ``start + width``."""

    feature: str
    start: int
    width: int
    vocabulary: str | None = None
    """the embedding table of an index block"""
    pooled: bool = False

    @property
    def slots(self) -> slice:
        """The block's columns."""
        return slice(self.start, self.start + self.width)


@dataclass(frozen=True, slots=True)
class Layout:
    """The arrays of a side: ``index [n, index_width]`` int32, ``value [n, value_width]`` float32.

    In `index`, blocks of a single slot come first, then the pooled ones.
    """

    index: tuple[Block, ...]
    value: tuple[Block, ...]

    @property
    def index_width(self) -> int:
        """Slots of the index array."""
        return sum(block.width for block in self.index)

    @property
    def value_width(self) -> int:
        """Slots of the value array."""
        return sum(block.width for block in self.value)


class FeatureSchema(Frozen):
    """The features of a model.

    Attributes:
        features: in the order that the config names them.
        tables: the key of every table beside ``user`` and ``item``, as paths.
        fitted: filled by the trainer.
    """

    features: tuple[Feature, ...]
    tables: dict[Name, Key] = Field(default_factory=dict)
    fitted: Fitted = Fitted()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for table in self.tables:
            self._check_table(table)
        seen: set[str] = set()
        for feature in self.features:
            if feature.name in seen:
                raise FeatureError(feature.name, "is declared twice; names are unique")
            seen.add(feature.name)
            self._check(feature)
        return self

    def feature(self, name: str) -> Feature:
        """The feature of that name. Raises FeatureError where there is none."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise FeatureError(name, "is no declared feature")

    def column_features(self) -> tuple[ColumnFeature, ...]:
        """The features that read a path, in order."""
        return tuple(f for f in self.features if not isinstance(f, Match | Product))

    def scope(self, feature: Feature) -> Scope:
        """What the feature depends on."""
        if isinstance(feature, Match):
            return Scope.CROSS
        if isinstance(feature, Product):
            return _joint(self.scope(self.feature(name)) for name in feature.of)
        scope = self.path_scope(feature.source)
        return Scope.LIVE if feature.live and scope is Scope.ITEM else scope

    def path_scope(self, path: str) -> Scope:
        """What a path depends on; a table's field depends on all parts of its key."""
        head = path.partition(".")[0]
        if head in (Scope.USER, Scope.CONTEXT, Scope.ITEM):
            return Scope(head)
        if head not in self.tables:
            raise FeatureError(
                path, f"reads no known table; declare [tables.{head}] or use user, item or context"
            )
        return _joint(self.path_scope(part) for part in self.tables[head])

    def reads(self, path: str) -> frozenset[str]:
        """The paths a path comes down to: itself, and the key of its table."""
        head = path.partition(".")[0]
        return frozenset({path}).union(*map(self.reads, self.tables.get(head, ())))

    def feature_reads(self, feature: Feature) -> frozenset[str]:
        """The paths a feature comes down to."""
        if isinstance(feature, Product):
            names = feature.of
        elif isinstance(feature, Match):
            names = (feature.item, feature.sequence)
        else:
            return self.reads(feature.source)
        return frozenset().union(*(self.feature_reads(self.feature(name)) for name in names))

    def vocabulary(self, feature: Feature) -> str:
        """Name of the feature's vocabulary and embedding: its own, or the one it shares."""
        shared = feature.share if isinstance(feature, Embedded) else None
        return self.vocabulary(self.feature(shared)) if shared else feature.name

    def in_scope(self, scope: Scope) -> tuple[Feature, ...]:
        """The features of a scope, columns before the products that read them."""
        found = [feature for feature in self.features if self.scope(feature) is scope]
        return tuple(sorted(found, key=lambda feature: isinstance(feature, Product | Match)))

    def layout(self, side: Side) -> Layout:
        """Where the features of a side stand in its arrays."""
        features = list(chain.from_iterable(self.in_scope(scope) for scope in SCOPES_OF[side]))
        single = [(f.name, 1, self.vocabulary(f), False) for f in features if _is_single(f)]
        pooled = [
            (f.name, f.max_length, self.vocabulary(f), True)
            for f in features
            if isinstance(f, Multi | SequenceOfIds)
        ]
        value = [(f.name, value_width(f), None, False) for f in features if value_width(f)]
        return Layout(tuple(_blocks(single + pooled)), tuple(_blocks(value)))

    def _check(self, feature: Feature) -> None:
        if isinstance(feature, Product):
            for name in feature.of:
                if isinstance(operand := self.feature(name), Product) or not _is_single(operand):
                    raise FeatureError(feature.name, f"{name!r} is neither categorical nor bucketed")
        elif isinstance(feature, Match):
            self._check_match(feature)
        else:
            self._check_flags(feature)
            if isinstance(feature, Embedded) and feature.share:
                shared = self.feature(feature.share)
                if not isinstance(shared, Embedded) or shared.share:
                    raise FeatureError(
                        feature.name, f"cannot share {feature.share!r}, which has no vocabulary of its own"
                    )

    def _check_flags(self, feature: ColumnFeature) -> None:
        scope = self.path_scope(feature.source)
        if feature.live and scope is not Scope.ITEM:
            raise FeatureError(feature.name, f"only an item feature can be live; {feature.source} is not one")
        if feature.train_only and scope is not Scope.CONTEXT:
            raise FeatureError(
                feature.name, f"only a context feature can be train_only; {feature.source} is not one"
            )
        if feature.train_only != (feature.serving is not None):
            raise FeatureError(feature.name, "train_only = true and a serving constant need each other")
        for other in self.column_features():
            if other.source == feature.source and (other.train_only, other.serving) != (
                feature.train_only,
                feature.serving,
            ):
                raise FeatureError(
                    feature.name,
                    f"train_only and serving must be those of {other.name!r}, which reads the same",
                )

    def _check_match(self, match: Match) -> None:
        item, sequence = self.feature(match.item), self.feature(match.sequence)
        of_user = SCOPES_OF[Side.USER]
        if not isinstance(item, Categorical | Multi) or self.scope(item) is not Scope.ITEM:
            raise FeatureError(match.name, f"item = {match.item!r} is no categorical feature of the item")
        if not isinstance(sequence, SequenceOfIds | Multi) or self.scope(sequence) not in of_user:
            raise FeatureError(match.name, f"sequence = {match.sequence!r} is no sequence of the user's")
        if self.vocabulary(item) != self.vocabulary(sequence):
            self.item_id(self.vocabulary(sequence))

    def _check_table(self, name: str) -> None:
        if name in (Scope.USER, Scope.CONTEXT, Scope.ITEM):
            raise FeatureError(f"tables.{name}", "is built in, and its key given; leave it out")
        self._check_key(name, behind=frozenset())
        for part in self.tables[name]:
            if self.path_scope(part) is Scope.CROSS:
                raise FeatureError(
                    f"tables.{name}",
                    f"{part} depends on user and item at once; split the key into parts that do not",
                )

    def _check_key(self, name: str, behind: frozenset[str]) -> None:
        if name in behind:
            raise FeatureError(f"tables.{name}", "has a key that is looked up in the table itself")
        for part in self.tables.get(name, ()):
            self._check_key(part.partition(".")[0], behind | {name})

    def item_id(self, vocabulary: str) -> Categorical:
        """The feature that reads the item's id with this vocabulary. Raises FeatureError where none does."""
        for feature in self.features:
            if (
                isinstance(feature, Categorical)
                and feature.source == ITEM_ID
                and not feature.live
                and self.vocabulary(feature) == vocabulary
            ):
                return feature
        raise FeatureError(
            vocabulary, f"holds no item ids; a categorical feature must read {ITEM_ID} with it"
        )


def _is_single(feature: Feature) -> bool:
    """Does the feature take one slot of the index array?"""
    return isinstance(feature, Categorical | Product) or is_bucketed(feature)


def _joint(scopes: Iterable[Scope]) -> Scope:
    """The scope of what reads things of the given scopes."""
    found = frozenset(scopes)
    if len(found) == 1:
        return next(iter(found))
    if found <= {Scope.USER, Scope.CONTEXT}:
        return Scope.CONTEXT
    return Scope.LIVE if found == {Scope.ITEM, Scope.LIVE} else Scope.CROSS


def _blocks(entries: Iterable[tuple[str, int, str | None, bool]]) -> Iterator[Block]:
    start = 0
    for name, width, vocabulary, pooled in entries:
        yield Block(name, start, width, vocabulary, pooled)
        start += width
