"""Tables of raw values by key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from service.bundle.columns import Column, Lists, Rows, Strings, Texts, Value
from service.bundle.errors import FeatureError
from service.bundle.keys import KeyIndex
from service.bundle.pieces import forget_values


class Table:
    """Rows of raw values by key.

    Args:
        name: ``user``, ``item`` or a name of the config's.
        keys: a string array ``[n]`` for each part of the key; together they are unique.
        columns: by field name, each of length ``n``.

    Raises:
        FeatureError: lengths differ, a key comes twice, or a part of one is missing.
    """

    def __init__(self, name: str, keys: Sequence[Strings], columns: Mapping[str, Column]) -> None:
        self.name = name
        self.keys = tuple(keys)
        self.columns = dict(columns)
        self.index = KeyIndex(name, self.keys)
        for field, column in self.columns.items():
            if len(column) != len(self):
                raise FeatureError(f"{name}.{field}", f"has {len(column)} values for {len(self)} keys")

    def __len__(self) -> int:
        return len(self.keys[0])

    def rows(self, *parts: Iterable[str | None]) -> Rows:
        """Rows of the given keys (an iterable a part), counted from 1; 0 is unknown."""
        return self.index.rows(*(self.index.codes(i, part) for i, part in enumerate(parts)))

    def each(self) -> Iterator[tuple[tuple[str, ...], dict[str, Value]]]:
        """Every row: its key, and its values by field."""
        for at, key in enumerate(zip(*self.keys, strict=True)):
            yield key, {field: column.at(at) for field, column in self.columns.items()}

    def forget(self) -> None:
        """Give the memory back. It is of no use any more."""
        texts = [column.distinct for column in self.columns.values() if isinstance(column, Texts)]
        lists = [column.values for column in self.columns.values() if isinstance(column, Lists)]
        for values in (*self.keys, *texts, *lists):
            forget_values(values)
        self.index.forget()
