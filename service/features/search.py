"""Looks the rows of one request up: which keys it asks for, what is near of them, and what is missing.

A table's key may be made of another table's fields, and so they are looked up in an order; a part of a key is
what the request brings, else what is stored, else what the version's table says.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import cast

import numpy as np

from service.bundle.columns import Rows
from service.bundle.encoder import Encoder
from service.bundle.schema import ITEM_ID, USER_ID, Scope
from service.features.brought import Brought, Fields
from service.features.known import PartKey, Positions, Standing
from service.features.near import Entry, NearCache
from service.features.reads import TableReads
from service.features.silent import Others, Silent
from service.features.store import RowKey
from service.features.views import View, part_text, views

Found = dict[RowKey, Entry]

VIEWED_AT_ONCE = 100
"""rows that are made views of before others get their turn: some milliseconds"""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """One table, looked up.

    Attributes:
        reads: what the version reads of it.
        views: of its keys, each once.
        which: of the views is each candidate's ``[N]``, or the request's ``[1]``.
        at: positions of those that were looked up: what is known beside them tells nothing more.
    """

    reads: TableReads
    views: Sequence[View]
    which: Positions
    at: Positions

    def telling(self) -> list[tuple[int, View]]:
        """The views that tell anything, each with its position."""
        if not len(self.at):
            return []
        tells = np.array([not view.silent for view in self.views])
        at = self.at[tells[self.which[self.at]]].tolist() if tells.any() else []
        return [(one, self.views[self.which[one]]) for one in at]


Looked = dict[str, LookedUp]
"""by the name of the table"""


@dataclass(frozen=True, slots=True)
class Beside:
    """Rows of a table beside the items, of which it was not known that they tell nothing.

    Attributes:
        others: the parts of their keys that are not the item's.
        rows: ``[n]`` of the items.
        keys: ``[n]``
        views: ``[n]``
    """

    others: Others
    rows: Rows
    keys: Sequence[PartKey]
    views: Sequence[View]


@dataclass(slots=True)
class Search:
    """Looks rows up for one version, near and among those just fetched; and collects what is missing.

    What is missing is taken for what it last was, or for not stored: the keys which follow from it are known
    at once.
    """

    encoder: Encoder
    near: NearCache
    standing: Standing
    fetched: Found
    silent: Mapping[str, Silent]
    """by table, its rows beside the items that tell nothing"""
    looked: Looked = field(default_factory=dict)
    of_items: dict[str, tuple[Sequence[PartKey], Sequence[Entry | None]]] = field(default_factory=dict)
    """by table, the keys of the items that are looked up, and what was found of each"""
    beside: dict[str, Beside] = field(default_factory=dict)
    """by table, its rows beside the items that were looked at"""
    parts: dict[str, tuple[Sequence[str | None], Positions]] = field(default_factory=dict)
    """of keys, by the path of an item's field: the texts, and which of them is each candidate's ``[N]``"""
    missing: Found = field(default_factory=dict)
    hits: int = 0

    def again(self) -> Search:
        """A search with what was missing fetched: what lacks nothing, nor follows from what does, stays."""
        lacking = {key[0] for key in self.missing}
        for name, table in self.looked.items():
            if not lacking.isdisjoint(path.partition(".")[0] for path in table.reads.key):
                lacking.add(name)
        search = Search(self.encoder, self.near, self.standing, self.fetched, self.silent)
        stays = self.looked.keys() - lacking
        search.looked = {name: self.looked[name] for name in stays}
        search.parts = {path: found for path, found in self.parts.items() if path.partition(".")[0] in stays}
        search.of_items = {name: found for name, found in self.of_items.items() if name in stays}
        search.beside = {name: found for name, found in self.beside.items() if name in stays}
        return search

    async def look(self, tables: Sequence[TableReads], brought: Brought) -> None:
        """Look tables up, each after those that its key is made of."""
        for reads in tables:
            if reads.name not in self.looked:
                await self._look(reads, brought)

    async def _look(self, reads: TableReads, brought: Brought) -> None:
        if reads.scope is Scope.ITEM:
            await self._look_items(reads, brought)
            return
        if reads.name in self.silent:
            await self._look_beside(reads, brought)
            return
        every = np.arange(1 if reads.per_request else len(brought.item_ids))
        keys, which = self._keys(reads, brought, every)
        self.looked[reads.name] = LookedUp(reads, await self._views(reads, keys), which, every)

    async def _look_items(self, reads: TableReads, brought: Brought) -> None:
        """Look up what follows from the item, for the items that are not known."""
        n, unknown = len(brought.item_ids), self.standing.unknown
        views, which = [_nothing()], np.zeros(n, np.intp)
        self.hits += n - len(unknown)
        if len(unknown):
            keys, of_keys = self._keys(reads, brought, unknown)
            entries = self._entries(keys)
            made = await self._made(reads, dict(zip(entries, keys, strict=True)))
            which[unknown] = 1 + of_keys
            views += [made[entry] for entry in entries]
            own = of_keys.tolist()
            self.of_items[reads.name] = [keys[at] for at in own], [entries[at] for at in own]
        self.looked[reads.name] = LookedUp(reads, views, which, unknown)
        for part, name in enumerate(reads.parts if len(unknown) else ()):
            texts, of_texts = self.standing.parts[f"{reads.name}.{name}"].each_once()
            of_texts[unknown] = len(texts) - 1 + which[unknown]
            self.parts[f"{reads.name}.{name}"] = _each_once(
                [*texts, *(view.parts[part] for view in views[1:])], of_texts
            )

    async def _look_beside(self, reads: TableReads, brought: Brought) -> None:
        """Look up what follows from the item and the request, but for rows that are known to tell nothing."""
        n, rows = len(brought.item_ids), self.standing.items.row
        views, which, unknown = [_nothing()], np.zeros(n, np.intp), np.empty(0, np.intp)
        others = tuple(self._part(path, brought, unknown)[0][0] for path in reads.key if path != ITEM_ID)
        if None not in others:  # else there is no such row
            known = cast(Others, others)
            unknown = self.silent[reads.name].unknown(known, rows, self.near.clock())
            self.hits += n - len(unknown)
            if len(unknown):
                keys, of_keys = self._keys(reads, brought, unknown)
                found = await self._views(reads, keys)
                which[unknown] = 1 + of_keys
                views += found
                self.beside[reads.name] = Beside(known, rows[unknown], keys, found)
        self.looked[reads.name] = LookedUp(reads, views, which, unknown)

    async def _views(self, reads: TableReads, keys: Sequence[PartKey]) -> Sequence[View]:
        """A view a key."""
        found = self.near.views(keys, reads)
        gaps = [at for at, view in enumerate(found) if view is None]
        self.hits += len(found) - len(gaps)
        if gaps:
            lacking = [keys[at] for at in gaps]
            entries = self._entries(lacking)
            made = await self._made(reads, dict(zip(entries, lacking, strict=True)))
            for at, entry in zip(gaps, entries, strict=True):
                found[at] = made[entry]
        return cast(list[View], found)

    def _entries(self, keys: Sequence[PartKey]) -> list[Entry | None]:
        """What is known of keys ``[n]``; None of one that lacks a part, and so is none."""
        entries = self.near.entries(keys)
        gaps = [at for at, entry in enumerate(entries) if entry is None]
        self.hits += len(keys) - len(gaps)
        for at in gaps:
            if None not in keys[at]:
                key = cast(RowKey, keys[at])
                entries[at] = self.fetched.get(key) or self.missing.get(key) or self._lacked(key)
        return entries

    def _lacked(self, key: RowKey) -> Entry:
        self.missing[key] = entry = self.near.stale(key) or Entry(None, True, -math.inf)
        return entry

    async def _made(
        self, reads: TableReads, entries: Mapping[Entry | None, PartKey]
    ) -> Mapping[Entry | None, View]:
        """What each entry, or none, is to the version; made only once, and some at a time.

        Of what is missing only parts of keys are needed by now.
        """
        made: dict[Entry | None, View] = {None: View({}, (None,) * len(reads.parts), True)}
        if self.missing and not reads.parts:
            made |= dict.fromkeys(
                (entry for entry, key in entries.items() if key in self.missing), _nothing()
            )
        made |= {entry: view for entry in entries if entry and (view := entry.seen(reads))}
        fresh = [entry for entry in entries if entry and entry not in made]
        for at in range(0, len(fresh), VIEWED_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            some = fresh[at : at + VIEWED_AT_ONCE]
            keys = [cast(RowKey, entries[entry]) for entry in some]
            seen = views(self.encoder, reads, keys, [entry.row for entry in some])
            self.near.tell(keys, seen)
            for entry, view in zip(some, seen, strict=True):
                made[entry] = view if entry.sound else replace(view, sound=False)
                entry.see(reads, made[entry])
        return made

    def _keys(self, reads: TableReads, brought: Brought, at: Positions) -> tuple[list[PartKey], Positions]:
        """A table's keys, and which of them is each candidate's ``[n]`` at some positions, or the one."""
        parts = [self._part(path, brought, at) for path in reads.key]
        if sum(len(texts) > 1 for texts, _ in parts) > 1:  # a key each, where two parts follow from the item
            parts = [([texts[one] for one in which.tolist()], np.arange(len(at))) for texts, which in parts]
        count = max(len(texts) for texts, _ in parts)
        which = next(which for texts, which in parts if len(texts) == count)
        columns = (texts if len(texts) == count else [*texts] * count for texts, _ in parts)
        return list(zip(repeat(reads.name, count), *columns, strict=True)), which

    def _part(self, path: str, brought: Brought, at: Positions) -> tuple[Sequence[str | None], Positions]:
        """A part of keys: its texts, and which of them is each candidate's ``[n]`` at some positions.

        As the request brings it, else as stored, else of the table. As the encoder reads it: a bare name is a
        field of the scope that brings it, and of two the last holds.
        """
        ids, every = brought.item_ids, len(at) == len(brought.item_ids)
        if path == USER_ID:  # the request's own, whatever fields it brings
            return [brought.user_id], np.zeros(len(at), np.intp)
        if path == ITEM_ID:
            return ids if every else [ids[one] for one in at.tolist()], np.arange(len(at))
        if path in self.standing.parts and path not in self.parts:
            self.parts[path] = self.standing.parts[path].each_once()
        if path not in self.parts:
            own = [*_own(path, Scope.USER, brought.user), *_own(path, Scope.CONTEXT, brought.context)]
            return [[self._of_request(path, brought), *own][-1]], np.zeros(len(at), np.intp)
        texts, which = self.parts[path]
        if every and not brought.inline:
            return texts, which
        texts, which = [*texts], which[at]
        for nth, one in enumerate(at.tolist()) if brought.inline else ():
            for text in _own(path, Scope.ITEM, brought.inline.get(one, {})):
                which[nth] = len(texts)
                texts.append(text)
        return _each_once(texts, which)

    def _of_request(self, path: str, brought: Brought) -> str | None:
        """A part of a key, the same for all candidates, as it is known."""
        head, _, name = path.partition(".")
        if head not in self.looked:
            return None
        table = self.looked[head]
        return table.views[0].parts[table.reads.parts.index(name)]


def _each_once(texts: Sequence[str | None], which: Positions) -> tuple[list[str | None], Positions]:
    """The texts that are any candidate's, each once; and which of them is that of each ``[n]``."""
    used, which = np.unique(which, return_inverse=True)
    own = [texts[one] for one in used.tolist()]
    place = {text: nth for nth, text in enumerate(dict.fromkeys(own))}
    return list(place), np.array([place[text] for text in own], np.intp)[which]


def _nothing() -> View:
    """What a row is that has nothing to add."""
    return View({}, (), True)


def _own(path: str, scope: Scope, fields: Fields) -> list[str | None]:
    """What fields of a scope say of a path."""
    names = {path, path.removeprefix(f"{scope}.")}
    return [part_text(value) for name, value in fields.items() if name in names]
