"""PUT /v1/features/{table}: rows that beat the bundles' tables from now on, in every worker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request

from service.api import Serving, WithServing, codec, media
from service.api.access import operators_only
from service.api.openapi import body_of, faults
from service.bundle.columns import Value
from service.bundle.encoder import Encoder
from service.errors import DeadlineExceeded, InvalidRequest, NotReady, UnknownTable
from service.features.checked import check
from service.features.features import Written
from service.features.store import RowKey
from service.wire import Answer, FeatureRow, FeatureRows

router = APIRouter(tags=["features"])


class FeaturesWritten(Answer):
    """What became of the rows of a request."""

    table: str
    written: int
    """Rows; fewer than were sent where a key came twice or a later row is there, which stays."""
    stamp_ms: int
    """The time that they were written at, in milliseconds since the epoch."""


@router.put(
    "/v1/features/{table}",
    dependencies=[operators_only],
    openapi_extra=body_of(FeatureRows),
    responses=faults(401, 403, 404, 413, 415, 422, 503, 504),
)
async def put(table: str, request: Request, serving: WithServing) -> FeaturesWritten:
    """Write rows of a table, each in place of the row that was there.

    A field beats the same field of every version's own table, and a field that a row lacks stays the
    version's. What a version does not read may be written, too: the next one may; what a version in memory
    reads and cannot make anything of is refused. A lone worker ranks with the rows at once, each of
    several within a second.
    """
    deadline = asyncio.get_running_loop().time() + serving.settings.max_deadline_ms / 1e3
    body = await codec.read(request.headers, request.receive, serving.settings.max_body_bytes, deadline)
    sent = codec.decode(body, codec.FEATURE_ROWS, media.sent(request.headers))
    parts = _key_parts(serving, table)
    rows = [(_key(table, row, parts, at), row.fields) for at, row in enumerate(sent.rows)]
    await check(rows, lambda: _encoders(serving), serving.features.reads)
    written = await _written(serving, dict(rows), deadline)
    return FeaturesWritten(table=table, written=written.rows, stamp_ms=written.stamp_ms)


async def _written(serving: Serving, rows: Mapping[RowKey, Mapping[str, Value]], deadline: float) -> Written:
    try:
        async with asyncio.timeout_at(deadline):
            return await serving.features.put(rows)
    except TimeoutError:
        raise DeadlineExceeded(
            "the store has not taken the rows in time, or not said so; send them again"
        ) from None


def _encoders(serving: Serving) -> dict[str, Encoder]:
    """Of the versions in memory now."""
    return {resident.version: resident.model.encoder for resident in serving.registry.residents()}


def _key_parts(serving: Serving, table: str) -> set[int]:
    """How many parts the key of a table has, in each of the versions in memory.

    Raises:
        NotReady: there is no version to know a table.
        UnknownTable: none of them has the table.
    """
    tables = [encoder.tables for encoder in _encoders(serving).values()]
    if not tables:
        raise NotReady("no version is in memory that would know the table; promote one")
    parts = {len(known[table].keys) for known in tables if table in known}
    if not parts:
        raise UnknownTable(table, set().union(*tables))
    return parts


def _key(table: str, row: FeatureRow, parts: set[int], at: int) -> RowKey:
    if len(row.key) not in parts:
        wanted = " or ".join(map(str, sorted(parts)))
        raise InvalidRequest(
            f"rows[{at}].key", f"has {len(row.key)} parts; the key of {table!r} has {wanted}"
        )
    return (table, *row.key)
