"""Bytes to wire types: HTTP's side of `service.wire`. JSON and MessagePack meet the same checks."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import ormsgpack
from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from service.api.errors import invalid
from service.api.media import Media
from service.errors import DeadlineExceeded, InvalidRequest, TooLarge, UnsupportedMedia
from service.wire import FeatureRows, Promotion, RankRequest

RANK_REQUEST = TypeAdapter(RankRequest)
PROMOTION = TypeAdapter(Promotion)
FEATURE_ROWS = TypeAdapter(FeatureRows)
W = TypeVar("W", bound=BaseModel)

_END_TEXT, _END = "end", b"\xa3end"


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
            "compressed bodies are not read; send the body as it is, without Content-Encoding"
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


def decode(body: bytes, adapter: TypeAdapter[W], media: Media = Media.JSON) -> W:
    """What the body says. Raises InvalidRequest naming the field and the fix."""
    try:
        # In two steps: pydantic would else make Python objects of the same JSON once for each of its types.
        value = from_json(body) if media is Media.JSON else _unpacked(body)
        return adapter.validate_python(value)
    except ValidationError as error:
        raise invalid(error) from None
    except ValueError as error:
        raise InvalidRequest(None, f"the body is not {media.spoken}: {error}") from None


def _unpacked(body: bytes) -> Any:
    """MessagePack's value; ValueError where it is none, has an extension type, or is not the whole body.

    ormsgpack believes no length that the body does not hold, and stops at a depth of 1,024.
    """
    # It would let what follows a value be. As the first of two, it must be followed by the one that is ours.
    value, end = ormsgpack.unpackb(b"\x92" + body + _END)
    if end != _END_TEXT:
        raise ValueError("there is more after its end")
    return value


def decode_rank(body: bytes, max_candidates: int, media: Media = Media.JSON) -> RankRequest:
    """A request to rank. Raises InvalidRequest naming the field and the fix."""
    wanted = decode(body, RANK_REQUEST, media)
    if len(wanted.candidates) > max_candidates:
        raise InvalidRequest(
            "candidates", f"{len(wanted.candidates)} candidates; send at most {max_candidates} in a request"
        )
    return wanted


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {most} bytes; send fewer candidates, or fewer features with them"
    )
