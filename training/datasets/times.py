"""Times as logs write them."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

UNITS: Final = (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", np.inf))
"""of a time since 1970, and where the next one begins: 1e11 are in the year 5138 as seconds, else in 1973"""

FIRST_DATE, LAST_DATE = 19000101, 22000101


def instants(values: pd.Series, form: str | None = None) -> NDArray[np.datetime64]:
    """Times ``[n]`` in UTC; one without a zone is taken as it is written.

    Args:
        values: all of one kind: dates and times, or their text as ISO 8601 writes it (``2024-05-01``,
            ``2024-05-01 20:15:00``, ``2024-05-01T20:15:00+02:00``), yyyymmdd, or seconds, milliseconds,
            microseconds or nanoseconds since 1970.
        form: of the text, as of `datetime.strptime`, where it is another.

    Raises:
        ValueError: a value is missing or no time; the message shows it.
    """
    codes, known = pd.factorize(values)
    if missing := int((codes < 0).sum()):
        raise ValueError(f"has no time in {missing:,} rows; leave such rows out")
    texts = pd.Series(known).astype(str)
    times = _parsed(pd.Series(known), texts, form)
    if (odd := times.isna().to_numpy()).any():
        raise ValueError(
            f"holds {texts[odd].iloc[0]!r}, which is no time as {form or 'ISO 8601'} has it; a time is"
            " 2024-05-01, 2024-05-01T20:15:00, 20240501 or seconds or milliseconds since 1970; say how others"
            " are written with dataset.time_format, e.g. '%d/%m/%Y %H:%M'"
        )
    instant: NDArray[np.datetime64] = times.dt.tz_convert(None).to_numpy("datetime64[us]")[codes]
    return instant


def days(times: NDArray[np.datetime64]) -> NDArray[np.int32]:
    """Days ``[n]`` as yyyymmdd."""
    codes, known = pd.factorize(times.astype("datetime64[D]"))
    spelled = (str(day).replace("-", "") for day in known.astype("datetime64[D]"))
    day: NDArray[np.int32] = np.fromiter(map(int, spelled), np.int32)[codes]
    return day


def _unit(number: float) -> str:
    """What a time since 1970 is likely to count."""
    return next(unit for unit, beyond in UNITS if number < beyond)


def _parsed(known: pd.Series, texts: pd.Series, form: str | None) -> pd.Series:
    """The times, NaT where a text is none."""
    if pd.api.types.is_datetime64_any_dtype(known):
        return pd.to_datetime(known, utc=True)
    if form is not None:
        return pd.to_datetime(texts, format=form, utc=True, errors="coerce")
    if len(texts) and texts.str.fullmatch(r"\d+(\.\d+)?").all():
        numbers = texts.astype(np.float64)
        if numbers.between(FIRST_DATE, LAST_DATE).all():
            return pd.to_datetime(texts, format="%Y%m%d", utc=True, errors="coerce")
        unit, least = (_unit(number) for number in (numbers.max(), numbers.min()))
        if unit != least:
            shown = " beside ".join(texts[at] for at in (numbers.idxmin(), numbers.idxmax()))
            raise ValueError(
                f"holds {shown}: one is in {least}, as it seems, the other in {unit}; write all alike"
            )
        return pd.to_datetime(numbers, unit=unit, utc=True, errors="coerce")
    return pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
