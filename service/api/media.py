"""In which form a body comes and its answer goes: JSON, or MessagePack where the caller names it."""

from __future__ import annotations

import math
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

_UNNAMED = 0.0005
"""How well a form is liked that Accept does not name: less than by any weight of three digits, but for 0."""


def sent(headers: Mapping[str, str]) -> Media:
    """The form of a body. One of another type, or of none, is read as JSON: `curl -d` calls that a form."""
    name, _, _ = headers.get("content-type", "").partition(";")
    return _NAMES.get(name.strip().lower(), Media.JSON)


def wanted(headers: Mapping[str, str]) -> Media:
    """The form of the answer: what Accept likes better of those it names, else the form of the body.

    One with a weight of 0 is the last choice.
    """
    as_sent, accept = sent(headers), headers.get("accept", "*/*")
    if accept == "*/*":
        return as_sent
    liked = dict(sorted(_liked(accept)))  # of a form's names the best liked, as the last
    return max(Media, key=lambda media: (liked.get(media, _UNNAMED), media is as_sent))


def _liked(accept: str) -> Iterator[tuple[Media, float]]:
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        if name in _NAMES:
            weights = (word.removeprefix("q=") for word in parameters if word.startswith("q="))
            yield _NAMES[name], _weight(next(weights, ""))


def _weight(text: str) -> float:
    """Within 0 and 1; 1 where it is no number: the form is named, and so liked."""
    try:
        weight = float(text)
    except ValueError:
        return 1.0
    return 1.0 if math.isnan(weight) else min(max(weight, 0.0), 1.0)
