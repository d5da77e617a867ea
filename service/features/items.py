"""Whole items as they are near: an item's own row and all rows that follow from it alone, looked up at once.

Most candidates were candidates a moment ago. One of these then costs a single lookup, however many tables
there are. Nothing here outlives what it is made of: the time to live of any row, or a change.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from service.features.near import NearCache
from service.features.views import View


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """What is near of an item.

    Attributes:
        views: of its rows, a table each.
        silent: does none of them tell anything?
        until: when the first of them is forgotten, on the near cache's clock.
    """

    views: tuple[View, ...]
    silent: bool
    until: float


class Items:
    """Items of one version by id, as long as the near cache has all of their rows.

    Args:
        near: where the rows are.
        most: items that are kept.
    """

    def __init__(self, near: NearCache, most: int) -> None:
        self._near, self._most = near, most
        self._items: dict[str, Item] = {}
        self._changes = near.changes

    def held(self, item_ids: Sequence[str], but: Container[int]) -> list[Item | None]:
        """The items ``[N]``; None for one that is not here, and at the positions `but`."""
        if self._changes != self._near.changes:
            self._items.clear()
            self._changes = self._near.changes
        now = self._near.now()
        found: list[Item | None] = list(map(self._items.get, item_ids))
        for at, item in enumerate(found):
            if item is not None and (item.until <= now or at in but):
                found[at] = None
        return found

    def keep(self, item_id: str, item: Item) -> None:
        """Keep an item that was just put together."""
        if len(self._items) >= self._most:
            self._items.clear()
        self._items[item_id] = item
