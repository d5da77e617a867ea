"""Which tables, keys and fields the features of one version read, in the order they can be looked up.

A pure reading of the schema: knows no rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.bundle.given import OF_USER
from service.bundle.schema import ITEM_ID, USER_ID, FeatureSchema, Scope

BUILT_IN = {"user": (USER_ID,), "item": (ITEM_ID,)}
"""the keys of the tables that every version has"""


@dataclass(frozen=True, slots=True, eq=False)
class TableReads:
    """What one version reads of one table. Of its own kind: two versions' are never the same.

    Attributes:
        name: of the table.
        key: a path for each part of the key.
        scope: what its key depends on.
        fields: columns that a feature, a formula or another table's key reads.
        paths: theirs, by name.
        parts: those of them that are parts of another table's key.
        of_items: the parts of the key that are not the same for all candidates of a request.
    """

    name: str
    key: tuple[str, ...]
    scope: Scope
    fields: frozenset[str]
    paths: Mapping[str, str]
    parts: tuple[str, ...]
    of_items: tuple[str, ...]

    @property
    def per_request(self) -> bool:
        """Is there one key a request, and not one a candidate?"""
        return self.scope in OF_USER

    @property
    def beside_items(self) -> bool:
        """Is the item's id one part of the key, and all others the same for every candidate?

        And for more than one user: of what nobody else asks for it is of no use to know it.
        """
        by_item = self.scope is Scope.CROSS and self.of_items == (ITEM_ID,)
        return by_item and USER_ID not in self.key and not self.parts


def table_reads(schema: FeatureSchema, attributes: Collection[str]) -> tuple[TableReads, ...]:
    """The tables that a version reads, each after those that its key is made of.

    Args:
        schema: of the version.
        attributes: item fields that a formula may read.
    """
    paths = {f"{Scope.ITEM}.{name}" for name in attributes}
    paths |= frozenset().union(*map(schema.feature_reads, schema.features))
    fields: dict[str, set[str]] = defaultdict(set)
    for path in paths - {USER_ID, ITEM_ID}:
        head, _, field = path.partition(".")
        if head != Scope.CONTEXT:
            fields[head].add(field)
    keys = {name: BUILT_IN.get(name) or schema.tables[name] for name in fields}
    of_keys = {part for name, key in keys.items() if name not in BUILT_IN for part in key}
    return tuple(
        TableReads(
            name=name,
            key=keys[name],
            scope=schema.path_scope(f"{name}."),
            fields=frozenset(fields[name]),
            paths={field: f"{name}.{field}" for field in fields[name]},
            parts=tuple(sorted(field for field in fields[name] if f"{name}.{field}" in of_keys)),
            of_items=tuple(path for path in keys[name] if schema.path_scope(path) not in OF_USER),
        )
        for name in sorted(fields, key=lambda name: (_depth(schema, name), name))
    )


def _depth(schema: FeatureSchema, name: str) -> int:
    """How many tables must be looked up before this one's key is known."""
    if name in BUILT_IN:
        return 0
    heads = {part.partition(".")[0] for part in schema.tables[name]} - {Scope.CONTEXT}
    return 1 + max((_depth(schema, head) for head in heads), default=0)
