"""Requests to prove a bundle by, drawn from logged impressions: golden ones to keep, and those of parity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from service.bundle.columns import Value, strings
from service.bundle.encoder import Encoder
from service.bundle.golden import GoldenRequest
from service.bundle.rows import Columns
from service.bundle.schema import Scope
from service.bundle.table import Table
from training.impressions import Impressions

GOLDEN_REQUESTS = 4
GOLDEN_CANDIDATES = 24

Fields = dict[str, Value]


@dataclass(frozen=True, slots=True)
class ParityCase:
    """A request of any size, and what it must be encoded to.

    Attributes:
        request: for the user and in the context of an impression; its first candidate brings its own fields.
        logged: user, item and cross columns ``[N]`` of the same candidates as the trainer encodes a log, with
            the constants of serving, and without what the first candidate brings.
    """

    request: GoldenRequest
    logged: tuple[Columns, Columns, Columns]


def golden_requests(sample: Impressions, encoder: Encoder) -> list[GoldenRequest]:
    """Requests drawn from logged impressions, with one item twice, and one of all that a request may bring.

    The last has an unknown user who brings fields, an unknown item, and an item that comes with another's
    fields and with a row of every other table.
    """
    requests = []
    for at in np.linspace(0, len(sample) - 1, GOLDEN_REQUESTS).astype(int).tolist():
        ids = np.roll(sample.item_id, -at)[:GOLDEN_CANDIDATES].tolist()
        requests.append(_request(sample, at, [*ids, ids[0]]))
    ids = (sample.item_id[0], "an item nobody knows", sample.item_id[-1])
    user = _fields(encoder.tables["user"], sample.user_id[-1])
    fields = _fields(encoder.tables["item"], ids[-1])
    for name in encoder.schema.tables:
        of_user = encoder.schema.path_scope(f"{name}.key") in (Scope.USER, Scope.CONTEXT)
        (user if of_user else fields).update(_first_row(encoder.tables[name]))
    return [*requests, GoldenRequest(user_id=None, user=user, item_ids=ids, inline={0: fields})]


def parity_cases(sample: Impressions, encoder: Encoder, sizes: Iterable[int]) -> list[ParityCase]:
    """A request of each size, every one of another user as long as there are any."""
    firsts = np.sort(np.unique(sample.user_id.astype(str), return_index=True)[1])
    known = np.unique(sample.item_id.astype(str))
    cases = []
    for nth, rows in enumerate(sizes):
        at = int(firsts[nth % len(firsts)])
        request = _request(sample, at, np.resize(np.roll(known, -nth), rows).tolist())
        repeated = np.full(rows, at)
        context = {f"context.{name}": column.take(repeated) for name, column in sample.context.items()}
        logged = encoder.log(sample.user_id[repeated], strings(request.item_ids), context, serving=True)
        if rows > 1:
            fields = _fields(encoder.tables["item"], request.item_ids[-1])
            request = request.model_copy(update={"inline": {0: fields}})
        cases.append(ParityCase(request, logged))
    return cases


def _request(sample: Impressions, at: int, item_ids: Sequence[str]) -> GoldenRequest:
    """The given candidates for the user and in the context of an impression."""
    context = {name: column.at(at) for name, column in sample.context.items()}
    return GoldenRequest(user_id=sample.user_id[at], context=context, item_ids=tuple(item_ids))


def _fields(table: Table, key: str) -> Fields:
    """What a table holds of a user or an item; nothing where it does not know them."""
    row = int(table.rows([key])[0])
    return {name: column.at(row - 1) for name, column in table.columns.items()} if row else {}


def _first_row(table: Table) -> Fields:
    """The fields of a table's first row, as a request names them; nothing of an empty table."""
    return {f"{table.name}.{name}": column.at(0) for name, column in table.columns.items() if len(table)}
