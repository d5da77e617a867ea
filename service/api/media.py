"""In which form a body comes and its answer goes: JSON, or MessagePack where the caller names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum


class Media(StrEnum):
    """A form, by the name that it is answered with."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"

    @property
    def spoken(self) -> str:
        """Its name in a sentence."""
        return "JSON" if self is Media.JSON else "MessagePack"


_NAMES: Mapping[str, Media] = {
    "application/json": Media.JSON,
    "application/msgpack": Media.MSGPACK,
    "application/x-msgpack": Media.MSGPACK,
    "application/vnd.msgpack": Media.MSGPACK,
}


def sent(headers: Mapping[str, str]) -> Media:
    """The form of a body. One of another type, or of none, is read as JSON: `curl -d` calls that a form."""
    name, _, _ = headers.get("content-type", "").partition(";")
    return _NAMES.get(name.strip().lower(), Media.JSON)


def wanted(headers: Mapping[str, str]) -> Media:
    """The form of the answer: what Accept likes better of those it names, else the form of the body."""
    as_sent = sent(headers)
    liked = dict(_liked(headers.get("accept", "")))
    return max(Media, key=lambda media: (liked.get(media, 0.0), media is as_sent))


def _liked(accept: str) -> Iterator[tuple[Media, float]]:
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name in _NAMES:
            weights = (word.removeprefix("q=") for word in parameters if word.startswith("q="))
            try:
                yield _NAMES[name], float(next(weights, 1.0))
            except ValueError:  # no number: it is named, and so liked
                yield _NAMES[name], 1.0
