"""How a log of one's own is described: its files, and what their columns are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    StringConstraints,
    model_validator,
)

from service.bundle.kinds import Frozen, Name


def _inside(pattern: str) -> str:
    if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
        raise ValueError(f"{pattern!r} leaves the folder of --data; name a file in it")
    return pattern


def _renamed(fields: Any) -> Any:
    """A list of columns as fields of the same names."""
    return {column: column for column in fields} if isinstance(fields, list | tuple) else fields


ColumnName = Annotated[str, StringConstraints(min_length=1)]
FilePattern = Annotated[str, StringConstraints(min_length=1), AfterValidator(_inside)]
Fields = Annotated[dict[Name, ColumnName], BeforeValidator(_renamed)]
"""field -> column; a list of columns where they are called the same"""


class LabelConfig(Frozen):
    """A label from a column: the number that it holds, or 1 and 0 by a condition on it.

    Attributes:
        column: of the log.
        above: 1 where the number is greater.
        equals: 1 where the value is this one.
        empty: the label where the column is empty; unknown, and so left out, without it.
    """

    column: ColumnName
    above: FiniteFloat | None = None
    equals: str | bool | int | FiniteFloat | None = None
    empty: FiniteFloat | None = None

    @model_validator(mode="after")
    def _holds(self) -> Self:
        if self.above is not None and self.equals is not None:
            raise ValueError("above and equals exclude each other; keep one")
        return self


class TableConfig(Frozen):
    """A table: a file with a row a key, or columns of the log.

    Attributes:
        file: CSV or Parquet in the folder; a pattern reads several. None: columns of the log.
        key: columns of the id, in the order of the config's ``tables``; a table ``user`` or ``item`` needs
            none where they are called as in the log.
        fields: every other column of the file where none is named.
    """

    file: FilePattern | None = None
    key: Annotated[
        tuple[ColumnName, ...], BeforeValidator(lambda key: [key] if isinstance(key, str) else key)
    ] = ()
    fields: Fields | None = None


class TabularConfig(Frozen):
    """Where the files lie is the command line's ``--data``.

    Attributes:
        log: CSV (gzipped or not) or Parquet with a row an impression; a pattern reads several.
        user: column of the user's id.
        item: column of the item's id.
        time: column of the time or day: see `times.instants`.
        time_format: how `time` is written where it is in no usual way, as of `datetime.strptime`.
        time_fields: of the time to give as context: hour (0 to 23), weekday (0 is Monday).
        context: columns of what held at that moment.
        labels: by name, a column or a condition on one.
        tables: ``user``, ``item`` and others.
        lists: separators of columns that hold lists, by column.
        delimiter: of a CSV.
        missing: what stands for a missing value in a CSV, beside an empty one.
    """

    name: Literal["tabular"]
    log: FilePattern
    user: ColumnName
    item: ColumnName
    time: ColumnName
    time_format: str | None = None
    time_fields: tuple[Literal["hour", "weekday"], ...] = ()
    context: Fields = Field(default_factory=dict)
    labels: Annotated[
        dict[
            Name,
            Annotated[LabelConfig, BeforeValidator(lambda it: {"column": it} if isinstance(it, str) else it)],
        ],
        Field(min_length=1),
    ]
    tables: dict[Name, TableConfig] = Field(default_factory=dict)
    lists: dict[ColumnName, Annotated[str, StringConstraints(min_length=1)]] = Field(default_factory=dict)
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] = ","
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _holds(self) -> Self:
        for name, table in self.tables.items():
            if not self.key(name):
                raise ValueError(f"tables.{name}: key is missing; name the columns of its id")
            if table.file is None and not table.fields:
                raise ValueError(
                    f"tables.{name}: name its file, or the columns of the log that are its fields"
                )
            given = {"user": self.user, "item": self.item}.get(name)
            if table.file is None and given and self.key(name) != (given,):
                raise ValueError(
                    f"tables.{name}.key: of the log it is {given!r}; leave it out, or rename the table"
                )
        of_label = {label.column: name for name, label in self.labels.items()}
        for field, column in (*self._ids(), *self._of_log()):
            if column in of_label:
                raise ValueError(
                    f"{field}: {column!r} is what the label {of_label[column]!r} is made of, known only after"
                    " the fact; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        if twice := sorted(self.context.keys() & set(self.time_fields)):
            raise ValueError(f"context.{twice[0]}: is one of time_fields, too; rename it, or leave one out")
        tables = self.tables.values()
        if any(table.file is not None and table.fields is None for table in tables):
            return self  # that file tells its columns when it is read, and only then are these known
        of_tables = (column for table in tables for column in (*table.key, *(table.fields or {}).values()))
        if strange := sorted(self.lists.keys() - {*self.columns(), *of_tables}):
            raise ValueError(f"lists.{strange[0]}: no such column is read; is it misspelled?")
        return self

    def key(self, table: str) -> tuple[str, ...]:
        """Columns of a table's key."""
        named = self.tables[table].key if table in self.tables else ()
        ids = {"user": (self.user,), "item": (self.item,)}
        return named or ids.get(table, ())

    def columns(self) -> tuple[str, ...]:
        """The columns of the log that are read."""
        labels = (label.column for label in self.labels.values())
        keys = (key for name, table in self.tables.items() if table.file is None for key in self.key(name))
        fields = (column for _, column in self._of_log())
        return tuple(dict.fromkeys([self.user, self.item, self.time, *labels, *keys, *fields]))

    def places(self) -> dict[str, str]:
        """Where the values of fields that are named come from, by path."""
        places = {
            f"context.{field}": f"column {column!r} of {self.log}" for field, column in self.context.items()
        }
        for name, table in self.tables.items():
            file = table.file or self.log
            for field, column in (table.fields or {}).items():
                places[f"{name}.{field}"] = f"column {column!r} of {file}"
        return places

    def _ids(self) -> Iterator[tuple[str, str]]:
        """What is told apart by columns of the log, each with its column."""
        yield from (("user", self.user), ("item", self.item))
        for name, table in self.tables.items():
            if table.file is None:
                yield from ((f"tables.{name}.key", column) for column in self.key(name))

    def _of_log(self) -> Iterator[tuple[str, str]]:
        """The fields that columns of the log become, each with its column."""
        for field, column in self.context.items():
            yield f"context.{field}", column
        for name, table in self.tables.items():
            if table.file is None:
                for field, column in (table.fields or {}).items():
                    yield f"tables.{name}.fields.{field}", column
