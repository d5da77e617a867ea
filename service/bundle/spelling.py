"""How a category is spelled, whoever wrote it: a log, a file, a request or the store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

WHOLE: Final = re.compile(r"(0|-?[1-9][0-9]*)\.0+")
"""an integer as a decimal"""

TRUTH: Final[Mapping[str, str]] = {
    "true": "1", "True": "1", "TRUE": "1",
    "false": "0", "False": "0", "FALSE": "0",
}  # fmt: skip
"""as JSON, Python and spreadsheets write it"""


def text(value: str | bool | int | float) -> str:
    """The one spelling of a category.

    ``3``, ``3.0``, ``"3"`` and ``"3.0"`` are the same, and so are ``True``, ``"true"``, ``1`` and ``"1"``.
    All other text stands as it is: ``"007"``, ``"1.10"``. Each value by itself, whatever stands beside it.
    """
    if isinstance(value, str):
        if value[-1:] == "0" and (whole := WHOLE.fullmatch(value)):
            return whole[1]
        return TRUTH.get(value, value)
    if isinstance(value, float) and not value.is_integer():
        return repr(float(value))
    return str(int(value))


def texts(values: Iterable[str]) -> list[str]:
    """The one spelling of each, as `text` has it, without a call for each."""
    values = list(values)
    if TRUTH.keys().isdisjoint(values) and ".0" not in "".join(values):
        return values
    return [TRUTH.get(value, value) if value[-1:] != "0" else text(value) for value in values]
