"""What a feature store is: rows by key, the time each was written, and notice of changes.

A store is schema-free. Whether a version reads a field, and what it makes of it, is `views`' to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from service.bundle.columns import Value

State = Literal["ok", "failing", "unknown"]
"""Failing: it is only tried now and then, and answers do without it. Unknown: it has not answered yet."""

RowKey = tuple[str, ...]
"""A table, then the parts of its key: ``("item", "17")``, ``("user_tag", "3", "cats")``."""

Hears = Callable[[bool], None]
"""Told whether all that changes from now on is told of."""


class Row(NamedTuple):
    """What is known of a key. A tuple, which is made in a third of a dataclass's time.

    Attributes:
        stamp_ms: when it was written, in milliseconds since the epoch; of two rows the later one stays.
        fields: by the name of the table's column; a field it lacks is the bundle's, null is missing.
        version: whose own table the row is of, as `features load VERSION` writes it; None for one that beats
            the tables of every version.
    """

    stamp_ms: int
    fields: Mapping[str, Value]
    version: str | None = None


Changed = Callable[[Collection[RowKey] | None, Mapping[RowKey, Row]], None]
"""Told of the keys of rows that have changed, None where any may have; and of the new rows, if they come."""


class FeatureStore(Protocol):
    """Rows by key."""

    name: str
    """what an answer that had to do without it calls it"""

    @property
    def state(self) -> State:
        """Does it answer? One that cannot fail is always `ok`."""

    @property
    def empty(self) -> bool:
        """Is it certain that there is nothing to find?"""

    async def fetch(self, keys: Sequence[RowKey]) -> Mapping[RowKey, Row | None]:
        """The rows that there are, in one round trip; None where what is stored is no row.

        Raises:
            StoreFailed: the store does not answer.
        """

    async def put(self, rows: Mapping[RowKey, Row]) -> int:
        """Write rows whole, unless a later one is there; how many were written.

        Raises:
            StoreFailed: the store does not answer; some may have been written.
        """

    async def now_ms(self) -> int:
        """The time by the store's own clock, one for all who write, in milliseconds since the epoch.

        Raises:
            StoreFailed: the store does not answer.
        """

    async def follow(self, changed: Changed, hears: Hears) -> None:
        """Tell of changes, whoever makes them, until cancelled; and whether it hears of them."""

    async def close(self) -> None:
        """Let go of connections."""
