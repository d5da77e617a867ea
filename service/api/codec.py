"""Bytes to wire types: HTTP's side of `service.wire`. JSON and MessagePack meet the same checks."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from secrets import token_bytes
from typing import Any, TypeVar

import ormsgpack
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.api.errors import invalid
from service.api.media import Media
from service.api.patience import Patience
from service.errors import InvalidRequest, TooLarge, UnsupportedMedia
from service.wire import FeatureRows, Promotion, RankRequest

RANK_REQUEST = TypeAdapter(RankRequest)
PROMOTION = TypeAdapter(Promotion)
FEATURE_ROWS = TypeAdapter(FeatureRows)
W = TypeVar("W", bound=BaseModel)

_MARK = 16
"""Bytes of it: so many that nobody guesses them."""


async def read(headers: Mapping[str, str], receive: Receive, most: int, deadline: float) -> bytes:
    """The body, by `deadline` on the event loop's clock; never more than `most` bytes of it are held.

    Raises:
        DeadlineExceeded: the caller took too long to send it.
        UnsupportedMedia, TooLarge, starlette.requests.ClientDisconnect: as `received`.
    """
    with Patience(deadline):
        return await received(headers, receive, most)


async def received(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """The body, whenever it is there; never more than `most` bytes of it are held.

    Raises:
        UnsupportedMedia: the body is compressed.
        TooLarge: it is longer than `most` bytes, as declared or as found while reading.
        starlette.requests.ClientDisconnect: the caller left.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia(
            "compressed bodies are not read; send the body as it is, without Content-Encoding"
        )
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        more = message.get("more_body", False)
    return bytes(body)


def decode(body: bytes, adapter: TypeAdapter[W], media: Media = Media.JSON) -> W:
    """What the body says. Raises InvalidRequest naming the field and the fix."""
    return _decode(body, adapter, media)


def decode_rank(body: bytes, max_candidates: int, media: Media = Media.JSON) -> RankRequest:
    """A request to rank. Raises InvalidRequest naming the field and the fix."""
    return _decode(body, RANK_REQUEST, media, max_candidates)


def _decode(body: bytes, adapter: TypeAdapter[W], media: Media, max_candidates: int | None = None) -> W:
    # A body of 4 MiB can hold four million lists. While they come into being the collector would look again
    # and again whether some are garbage, and hold the loop for several times as long as the reading does.
    was_on = gc.isenabled()
    gc.disable()
    try:
        # What the body held has gone when it returns. A fault that it raised would keep it, in its frames.
        found = _read(body, adapter, media, max_candidates)
    finally:
        if was_on:
            gc.enable()
    if isinstance(found, InvalidRequest):
        raise found
    return found


def _read(
    body: bytes, adapter: TypeAdapter[W], media: Media, max_candidates: int | None
) -> W | InvalidRequest:
    """What the body says, or what is wrong with it."""
    try:
        # In two steps: pydantic would else make Python objects of the same JSON once for each of its types.
        value = from_json(body, cache_strings="keys") if media is Media.JSON else _unpacked(body)
        if max_candidates is not None and (count := _candidates(value)) > max_candidates:
            return InvalidRequest(
                "candidates", f"{count} candidates; send at most {max_candidates} in a request"
            )
        return adapter.validate_python(value)
    except ValidationError as error:
        return invalid(error)
    except ValueError as error:
        return InvalidRequest(None, f"the body is not {media.spoken}: {error}")


def _candidates(value: Any) -> int:
    """How many there are, before any of them is looked at; 0 where that is not to be seen."""
    candidates = value.get("candidates") if isinstance(value, dict) else None
    return len(candidates) if isinstance(candidates, list) else 0


def _unpacked(body: bytes) -> Any:
    """MessagePack's value; ValueError where it is none, has an extension type, or is not the whole body.

    ormsgpack believes no length that the body does not hold, and stops at a depth of 1,024.
    """
    # It would let what follows a value be. As the first of two, it must be followed by the one that is ours,
    # and that is one which no body can bring along.
    mark = token_bytes(_MARK)
    value, end = ormsgpack.unpackb(b"\x92" + body + ormsgpack.packb(mark))
    if end != mark:
        raise ValueError("there is more after its end")
    return value


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most} bytes; send fewer candidates, or fewer features with them"
    )
