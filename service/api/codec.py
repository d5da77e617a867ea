"""Bytes to wire types, and a slate to bytes. HTTP's side of `service.wire`.

Going in, JSON is parsed and validated by pydantic's core. Going out, the answer is written from the slate's
arrays, with no object per item that would be made and checked again; a test holds it against `RankResponse`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import orjson
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from service.api.errors import invalid
from service.bundle.fusion import GroupLogs
from service.errors import DeadlineExceeded, InvalidRequest, TooLarge, UnsupportedMedia
from service.ranker import Slate
from service.wire import FeatureRows, Promotion, RankRequest

RANK_REQUEST = TypeAdapter(RankRequest)
PROMOTION = TypeAdapter(Promotion)
FEATURE_ROWS = TypeAdapter(FeatureRows)
W = TypeVar("W", bound=BaseModel)


async def read(request: Request, most: int, deadline: float) -> bytes:
    """The body, by `deadline` on the event loop's clock; never more than `most` bytes of it are held.

    Raises:
        UnsupportedMedia: the body is compressed.
        TooLarge: it is longer than `most` bytes, as declared or as found while reading.
        DeadlineExceeded: the caller took too long to send it.
        starlette.requests.ClientDisconnect: the caller left.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia(
            "compressed bodies are not read; send the JSON as it is, without Content-Encoding"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the body was there; send it faster") from None
    return bytes(body)


def decode(body: bytes, adapter: TypeAdapter[W]) -> W:
    """What the body says. Raises InvalidRequest naming the field and the fix."""
    try:
        # In two steps: pydantic would else make Python objects of the same JSON once for each of its types.
        return adapter.validate_python(from_json(body))
    except ValidationError as error:
        raise invalid(error) from None
    except ValueError as error:
        raise InvalidRequest(None, f"the body is not JSON: {error}") from None


def decode_rank(body: bytes, max_candidates: int) -> RankRequest:
    """A request to rank. Raises InvalidRequest naming the field and the fix."""
    wanted = decode(body, RANK_REQUEST)
    if len(wanted.candidates) > max_candidates:
        raise InvalidRequest(
            "candidates", f"{len(wanted.candidates)} candidates; send at most {max_candidates} in a request"
        )
    return wanted


def encode(slate: Slate, request_id: str, *, tasks: bool) -> bytes:
    """A slate as the JSON of a `RankResponse`, the task scores in it where asked for. NaN becomes null."""
    answer = {
        "request_id": request_id,
        "ranker": slate.ranker,
        "version": slate.version,
        "degraded": slate.degraded,
        "defaults": slate.defaults,
        "timings_ms": {stage: round(ms, 3) for stage, ms in slate.timings_ms.items()},
    }
    return b'%b,"items":[%b]}' % (orjson.dumps(answer)[:-1], _items(slate, tasks=tasks))


def _items(slate: Slate, *, tasks: bool) -> bytes:
    """The ranked items, written a column at a time: an object each would cost several times as much."""
    order = slate.order
    columns = {'{"id":': _texts(slate.ids, order), ',"score":': _numbers(slate.scores[order])}
    opened = "}"
    if tasks:
        before = ',"tasks":{'
        for name, scores in slate.tasks.items():
            columns[f'{before}"{name}":'] = _numbers(scores[order])
            before = ","
        opened = "}}"
    if slate.factors is not None:
        groups = [[_group(group, at) for group in slate.factors] for at in order.tolist()]
        columns[f'{opened[1:]},"factors":'] = [orjson.dumps(each).decode() for each in groups]
        opened = "}"
    # A row of text is what stands before each value, the value, and what closes the item.
    row = [text for before in columns for text in (before, "")] + [f"{opened},"]
    texts = row * len(order)
    for at, values in enumerate(columns.values()):
        texts[2 * at + 1 :: len(row)] = values
    return "".join(texts)[:-1].encode()


def _texts(ids: Sequence[str], order: NDArray[np.intp]) -> list[str]:
    """Ids in order, as JSON."""
    return [orjson.dumps(ids[at]).decode() for at in order.tolist()]


def _numbers(values: NDArray[np.floating]) -> list[str]:
    """Numbers as JSON, each in the fewest digits that its own precision needs; NaN as null."""
    written = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode()
    return written.split(",") if written else []


def _group(group: GroupLogs, at: int) -> dict[str, Any]:
    return {
        "log_weight": group.log_weight,
        "log_score": float(group.log_score[at]),
        "factors": [{"name": factor.name, "log": float(factor.logs[at])} for factor in group.factors],
    }


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most} bytes; send fewer candidates, or fewer features with them"
    )
