"""What is wrong with a config, in the file's own words: pydantic speaks of locations and types."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

PLAINLY = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "too_short": "needs at least {min_length} of them",
    "tuple_type": "must be a list",
    "string_pattern_mismatch": (
        "{input!r} is misspelled: a name has letters, digits and _; a path is a table and a field: item.tag"
    ),
    "union_tag_not_found": "{discriminator} is missing",
    "union_tag_invalid": "{discriminator} is {tag!r}; there is {expected_tags}",
}
"""what pydantic's types of faults mean in a config"""


def told(
    error: ValidationError, raw: Any, copies: Collection[tuple[str | int, ...]] = frozenset()
) -> list[str]:
    """The faults of plain values `raw`, a line each; those below `copies` are told where they come from."""
    faults = [fault for fault in error.errors() if fault["loc"][:3] not in copies]
    return [_line(fault, raw) for fault in _first_causes(faults)]


def _line(fault: ErrorDetails, raw: Any) -> str:
    """What is wrong, in one line: the key as the file spells it, an entry of an array by its name."""
    path: list[str] = []
    for step in fault["loc"]:
        if isinstance(raw, Mapping) and step not in raw and step in (raw.get("kind"), raw.get("name")):
            continue  # which kind of feature, model or dataset it is; no key of the file
        try:
            raw = raw[step]
        except (KeyError, IndexError, TypeError):
            raw = None
        name = raw.get("name") if isinstance(step, int) and isinstance(raw, Mapping) else None
        path.append(str(name or step))
    if path[:2] in (["features", "features"], ["features", "tables"]):
        path.pop(0)
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in PLAINLY:
        what = PLAINLY[fault["type"]].format(input=fault["input"], **fault.get("ctx", {}))
    return f"{'.'.join(path)}: {what}" if path else what


def _first_causes(faults: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Without the arrays that are too short only because what is in them is wrong."""
    for fault in faults:
        inside = any(
            other["loc"][: len(fault["loc"])] == fault["loc"] for other in faults if other is not fault
        )
        if fault["type"] != "too_short" or not inside:
            yield fault
