"""How long after new features were written does an old score still come, and from which worker?

A probe writes new features of some items, and asks for their scores from then on, over connections to every
worker, until each has answered often enough after the time that is promised. What is right is told by the
bundle's flat graph, offline: once for the features before, once for those after.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Outcome, Pool, message
from benchmarks.offline import Offline, Request, answered
from service.bundle.columns import Column
from service.bundle.golden import agree

PROMISED_S = 1.0
"""after which no answer may be of the features before"""
OFTEN = 5
"""answers of each worker after that"""
PAUSE_S = 0.02
"""between two questions"""
MOST_ASKED = 2000
CONNECTIONS = 8
ITEMS = 10
"""of a probe"""


@dataclass(frozen=True, slots=True)
class Change:
    """New features of the workload's items: each gets those of another item.

    Attributes:
        items: rows ``[n]`` of the bundle's item table, from 0.
        like: rows ``[n]``, whose features they get.
    """

    items: NDArray[np.int64]
    like: NDArray[np.int64]

    def put(self, offline: Offline, token: str) -> bytes:
        """The request that writes them."""
        table = offline.encoder.tables["item"]
        rows = [
            {
                "key": str(table.keys[0][item]),
                "fields": {name: column.at(like) for name, column in table.columns.items()},
            }
            for item, like in zip(self.items.tolist(), self.like.tolist(), strict=True)
        ]
        return message("PUT", "/v1/features/item", {"rows": rows}, token)

    def given(self, offline: Offline) -> dict[str, Column]:
        """The same as columns ``[n]`` by path."""
        columns = offline.encoder.tables["item"].columns
        return {f"item.{name}": column.take(self.like) for name, column in columns.items()}


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer to a probe.

    Attributes:
        age_s: from the answer to the write until this was asked for.
        worker: that gave it.
        kind: ``new`` or ``old`` where all scores are of those features, ``mixed`` of some each, ``other``
            where a score is neither, or what came in place of an answer.
    """

    age_s: float
    worker: str
    kind: str

    @property
    def stale(self) -> bool:
        """Was it promised to be new, and is not?"""
        return self.age_s >= PROMISED_S and self.kind != "new"


async def probe(
    pool: Pool, offline: Offline, change: Change, user_id: str, put: bytes, workers: int
) -> list[Seen]:
    """Write a change, and ask until every worker has answered `OFTEN` times after the time promised.

    Args:
        pool: of `CONNECTIONS` connections to all workers, each of which says whose it is.
        offline: the bundle; nobody has changed the items since.
        change: to write.
        user_id: for whom the items are ranked.
        put: the request that writes it.
        workers: how many there are.

    Raises:
        RuntimeError: it was not written, or a worker has not answered so often.
    """
    ids = [str(offline.encoder.tables["item"].keys[0][item]) for item in change.items.tolist()]
    request = Request(user_id, {}, ids)
    before, after = (offline.scores(request, given).fused for given in ({}, change.given(offline)))
    asked, loop = message("POST", "/v1/rank", request.body()), asyncio.get_running_loop()
    for _ in range(CONNECTIONS):  # every worker knows the items as they were
        await pool.send(0, asked)
    written = await pool.send(0, put)
    if written.kind != "ok":
        raise RuntimeError(f"new features were not written: {written.kind}")
    seen, late = list[Seen](), Counter[str]()
    while len(late) < workers or min(late.values()) < OFTEN:
        if len(seen) == MOST_ASKED:
            raise RuntimeError(f"of {workers} workers, these answered so often: {dict(late)}")
        outcome = await pool.send(0, asked)
        age_s = outcome.sent - written.ended
        kind = _kind(outcome, ids, before, after, offline.manifest.tolerance)
        seen.append(Seen(age_s, str(outcome.worker), kind))
        if age_s >= PROMISED_S and outcome.worker is not None:
            late[outcome.worker] += 1
        await asyncio.sleep(max(0.0, PAUSE_S - (loop.time() - outcome.sent)))
    return seen


def _kind(
    outcome: Outcome,
    ids: Sequence[str],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    tolerance: float,
) -> str:
    if outcome.kind != "ok":
        return outcome.kind
    found = answered(outcome.json(), ids).fused
    kinds = {
        "new" if agree(one, new, tolerance) else "old" if agree(one, old, tolerance) else "other"
        for one, new, old in zip(found[:, None], after[:, None], before[:, None], strict=True)
    }
    return kinds.pop() if len(kinds) == 1 else "other" if "other" in kinds else "mixed"


def told(seen: Sequence[Seen], probes: int) -> str:
    """What the probes saw, in a few lines."""
    late = [each for each in seen if each.age_s >= PROMISED_S]
    stale = [each for each in seen if each.stale]
    not_new = [each.age_s for each in seen if each.kind != "new"]
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(each.kind for each in seen).items())
    by_worker = ", ".join(
        f"{worker} {count}" for worker, count in sorted(Counter(each.worker for each in late).items())
    )
    last = f"the last that was not new {1e3 * max(not_new):.0f} ms after the write" if not_new else "all new"
    return (
        f"{probes} probes of {ITEMS} items each, asked from the write on: {kinds}; {last}\n"
        f"answers more than {PROMISED_S:g} s after a write, by worker: {by_worker}; not new: {len(stale)}"
    )
