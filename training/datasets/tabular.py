"""A log of one's own: any CSV or Parquet with a row an impression, described by the config alone.

The config names columns; features read them as ``context.<field>``, ``user.<field>``, ``item.<field>`` and
``<table>.<field>``. A table is a file, or comes from columns of the log itself: then a row is trained and
measured on the values that it brings along, and the table, which is what serves, holds the last ones seen.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from service.bundle.columns import Column, Numbers, Strings, as_numbers, as_texts
from service.bundle.errors import FeatureError
from service.bundle.spelling import text
from service.bundle.table import Table
from training.datasets.files import Folder
from training.datasets.frames import Frame
from training.datasets.last_seen import last_seen
from training.datasets.tabular_config import LabelConfig, TableConfig, TabularConfig
from training.datasets.times import days, instants
from training.impressions import Impressions, Log

MISSED = 0.5
"""of the log's rows: where more have an id that a table of a file lacks, it is told"""

_log = logging.getLogger(__name__)


def read(config: TabularConfig, data: Path) -> Log:
    """The log that a config describes, in order of time.

    Raises:
        FileNotFoundError: a file is missing.
        FeatureError: a file has no such column, or a column is not what the config says.
    """
    folder = Folder(data, config.delimiter, config.missing, config.lists)
    log = folder.read(config.log, config.columns())
    if not len(log):
        raise FeatureError(config.log, "has no rows")
    try:
        times = instants(log.data[config.time], config.time_format)
    except ValueError as error:
        raise FeatureError(config.log, f"column {config.time!r} {error}") from None
    order = np.argsort(times, kind="stable")
    log, times = log.take(order), times[order]
    users, items = (log.whole(column, log.ids(column)) for column in (config.user, config.item))
    tables, inline = _tables(config, folder, log)
    of_files = {
        f"{name}.{field}": f"column {field!r} of {table.file}"
        for name, table in config.tables.items()
        if table.fields is None
        for field in tables[name].columns
    }
    for name, ids in (("user", users), ("item", items)):
        if (file := config.tables.get(name, TableConfig()).file) is not None:
            _check_known(file, tables[name], ids)
    impressions = Impressions(
        user_id=users,
        item_id=items,
        day=days(times),
        context=_context(config, log, times),
        labels={name: _label(f"dataset.labels.{name}", label, log) for name, label in config.labels.items()},
        inline=inline,
    )
    return Log(impressions, tables, places=config.places() | of_files)


def _context(config: TabularConfig, log: Frame, times: NDArray[np.datetime64]) -> dict[str, Column]:
    calendar = pd.DatetimeIndex(times)
    of_time = {"hour": calendar.hour, "weekday": calendar.day_of_week}
    context: dict[str, Column] = {
        field: Numbers(np.asarray(of_time[field], np.float64)) for field in config.time_fields
    }
    return context | {field: log.column(column) for field, column in config.context.items()}


def _label(field: str, label: LabelConfig, log: Frame) -> NDArray[np.float32]:
    column = log.column(label.column)
    if label.equals is not None:
        values = as_texts(column, label.column)
        known = np.array([value is not None for value in values])
        happened = (values == text(label.equals)).astype(np.float32)
        if not happened.any():
            some = ", ".join(sorted(map(repr, set(values[known].tolist())))[:10])
            raise FeatureError(
                field, f"column {label.column!r} never equals {label.equals!r}; it holds {some}"
            )
    else:
        try:
            numbers = as_numbers(column, label.column)
        except FeatureError as error:
            raise FeatureError(
                field,
                f"column {label.column!r} of {log.file}: {error.message}; say which value is the event:"
                f' {{ column = "{label.column}", equals = … }}',
            ) from None
        known = ~np.isnan(numbers)
        happened = (numbers if label.above is None else numbers > label.above).astype(np.float32)
    return np.where(known, happened, np.float32(np.nan if label.empty is None else label.empty))


def _tables(config: TabularConfig, folder: Folder, log: Frame) -> tuple[dict[str, Table], dict[str, Column]]:
    """Tables by name, and what the rows of the log say themselves of their fields, by path."""
    tables: dict[str, Table] = {}
    inline: dict[str, Column] = {}
    read = set(config.columns())
    for name in {"user": None, "item": None} | dict.fromkeys(config.tables):
        table, key = config.tables.get(name, TableConfig()), config.key(name)
        if table.file is not None:
            frame = folder.read(
                table.file, [*key, *(table.fields or {}).values()], whole=table.fields is None
            )
            read.update(frame.data.columns)
            tables[name] = _table_of_file(config, name, frame)
            continue
        columns = {field: log.column(column) for field, column in (table.fields or {}).items()}
        inline |= {f"{name}.{field}": column for field, column in columns.items()}
        tables[name] = last_seen(name, [_ids(config, name, log, part) for part in key], columns)
    if strange := sorted(config.lists.keys() - read):
        raise FeatureError(f"dataset.lists.{strange[0]}", "no such column is read; is it misspelled?")
    return tables, inline


def _table_of_file(config: TabularConfig, name: str, frame: Frame) -> Table:
    table, key = config.tables[name], config.key(name)
    keys = [frame.whole(part, _ids(config, name, frame, part)) for part in key]
    repeated = pd.DataFrame(dict(enumerate(keys))).duplicated().to_numpy()
    if repeated.any():
        twice = ", ".join(repr(part[repeated][0]) for part in keys)
        raise FeatureError(
            frame.file,
            f"the key {', '.join(key)} comes again in {int(repeated.sum()):,} rows, {twice} among them;"
            " keep one row a key",
        )
    fields = table.fields or {column: column for column in frame.data.columns if column not in key}
    return Table(name, keys, {field: frame.column(column) for field, column in fields.items()})


def _ids(config: TabularConfig, table: str, frame: Frame, column: str) -> Strings:
    """A part of a table's key: users and items as they stand, all else as what looks it up is spelled."""
    own = table in ("user", "item") or column in (config.user, config.item)
    return frame.ids(column) if own else frame.texts(column)


def _check_known(file: str, table: Table, ids: Strings) -> None:
    """Warn where a table lacks most of the log's ids: they would all be ranked as average ones.

    Raises:
        FeatureError: it has none of them.
    """
    missed = table.rows(ids) == 0
    if missed.mean() <= MISSED:
        return
    has = repr(str(table.keys[0][0])) if len(table) else "nothing"
    what = (
        f"has no row of {int(missed.sum()):,} of the log's {len(ids):,} {table.name} ids, "
        f"{str(ids[missed][0])!r} among them; it has {has}: are they spelled alike?"
    )
    if missed.all():
        raise FeatureError(file, what)
    _log.warning("%s: %s", file, what)
