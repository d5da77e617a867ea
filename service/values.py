"""Features by name, as they travel: what may be a value, and why another may not.

Knows no model: whether `age` is a feature, and of what kind, is the schema's to say.
"""

import math
from collections.abc import Collection
from typing import Annotated, cast

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.bundle.columns import Value

MAX_TEXT = 4_096
"""Characters in an id, a name or a string value."""
MAX_LIST = 10_000
"""Entries of a feature that is a list."""
MAX_FIELDS = 1_000
"""Features given in one object."""


def _fault(value: object) -> str | None:
    """Why this is no single value of a feature, and the fix; None where it is one."""
    match value:
        case float() if not math.isfinite(value):
            return "not a finite number; send null where the value is missing"
        case int() if not fits(value):
            return "an integer beyond 64 bits; send it as a string"
        case str() if len(value) > MAX_TEXT:
            return f"longer than {MAX_TEXT} characters; shorten it"
        case bytes():  # MessagePack has them
            return "bytes; send text as a string"
        case list() | dict():
            return "nested too deep; a feature is a single value or a flat list"
    return None


def _list_fault(values: list[object]) -> str | None:
    if len(values) > MAX_LIST:
        return f"a list of {len(values)} values; send at most {MAX_LIST}"
    if None in values:
        return "null in a list; leave the entry out"
    return next(filter(None, map(_fault, values)), None)


def _features(given: object) -> dict[str, Value]:
    """Features by name, checked in one go: a pydantic type a value would cost as much as the inference."""
    if not isinstance(given, dict):
        raise PydanticCustomError("dict_type", "expected a JSON object")
    if len(given) > MAX_FIELDS:
        raise PydanticCustomError("too_long", "more than {most} features; send fewer", {"most": MAX_FIELDS})
    if given and max(map(len, given)) > MAX_TEXT:
        raise PydanticCustomError("too_long", "a name of more than {most} characters", {"most": MAX_TEXT})
    if _plain(given.values()):
        return given
    for name, value in given.items():
        if fault := _list_fault(value) if isinstance(value, list) else _fault(value):
            raise PydanticCustomError("feature", "{fault}", {"fault": fault, "name": name})
    return given


def _plain(values: Collection[object]) -> bool:
    """Are these all texts and numbers as they may be? The commonest of rows, without a call for each."""
    if set(map(type, values)) == {str}:
        return len("".join(cast(Collection[str], values))) <= MAX_TEXT
    texts = [value for value in values if type(value) is str]
    numbers = [value for value in values if type(value) is float or type(value) is int]
    return (
        len(texts) + len(numbers) == len(values)
        and max(map(len, texts), default=0) <= MAX_TEXT
        and max(map(abs, numbers), default=0) < 2**53
        and math.isfinite(sum(numbers))  # where there is a NaN, `max` may be any of them
    )


def fits(number: int) -> bool:
    """Do 64 bits hold it, signed or not? No id or count needs more, and Python's own limits lie beyond."""
    return -(2**63) <= number < 2**64


_SCALARS = ["string", "number", "boolean"]
Features = Annotated[
    dict[str, Value],
    PlainValidator(_features),
    WithJsonSchema(
        {
            "type": "object",
            "description": "Features by name: a string, number, boolean, null (missing), or a flat list.",
            "additionalProperties": {
                "anyOf": [
                    {"type": [*_SCALARS, "null"]},
                    {"type": "array", "items": {"type": _SCALARS}, "maxItems": MAX_LIST},
                ]
            },
            "maxProperties": MAX_FIELDS,
        }
    ),
]
