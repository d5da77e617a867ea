"""Times as logs write them."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.datasets.times import days, instants

MOMENT = np.datetime64("2024-05-01T20:15:00")
SECONDS = 1714594500


@pytest.mark.parametrize(
    "spelled",
    [
        "2024-05-01T20:15:00",
        "2024-05-01 20:15:00",
        "2024-05-01T20:15:00Z",
        "2024-05-01T22:15:00+02:00",
        str(SECONDS),
        f"{SECONDS}.0",
        str(SECONDS * 10**3),
        str(SECONDS * 10**6),
        str(SECONDS * 10**9),
    ],
)
def test_a_moment_is_the_same_in_every_spelling(spelled: str) -> None:
    """ISO 8601, its zone taken off; and counted since 1970, in units that the size tells."""
    assert instants(pd.Series([spelled])).tolist() == [MOMENT.astype(datetime.datetime)]


@pytest.mark.parametrize("spelled", ["2024-05-01", "20240501", 20240501, datetime.date(2024, 5, 1)])
def test_a_day_is_a_time(spelled: object) -> None:
    """Its midnight; a number of eight digits is no time since 1970."""
    assert days(instants(pd.Series([spelled]))).tolist() == [20240501]


def test_times_of_another_form_are_read_by_it() -> None:
    """As of strptime; nothing is guessed of 01/05, which is the 5th of January to others."""
    times = instants(pd.Series(["01/05/2024 20:15"]), "%d/%m/%Y %H:%M")
    assert times.tolist() == [MOMENT.astype(datetime.datetime)]
    with pytest.raises(ValueError, match=r"holds '01/05/2024 20:15', which is no time as ISO 8601 has it"):
        instants(pd.Series(["01/05/2024 20:15"]))


@pytest.mark.parametrize(
    ("values", "form", "message"),
    [
        (["2024-05-01", "yesterday"], None, "holds 'yesterday'.*time_format"),
        (["20240501", "20240532"], None, "holds '20240532'"),
        (["01/05/2024", "2024-05-01"], "%d/%m/%Y", "holds '2024-05-01', which is no time as %d/%m/%Y has it"),
        (["2024-05-01", None, None], None, "has no time in 2 rows"),
        (["1714521600", "1714521600000"], None, "holds 1714521600 beside 1714521600000: .* in s, .* in ms"),
    ],
)
def test_what_is_no_time_is_shown(values: list[str | None], form: str | None, message: str) -> None:
    """The first value that is not to be read, and how times are written."""
    with pytest.raises(ValueError, match=message):
        instants(pd.Series(values), form)


@given(
    st.lists(
        st.datetimes(datetime.datetime(1980, 1, 1), datetime.datetime(2100, 1, 1)), min_size=1, max_size=20
    )
)
def test_days_are_those_of_the_calendar(moments: list[datetime.datetime]) -> None:
    """As yyyymmdd, whatever the time of the day, in the order of the rows."""
    found = days(instants(pd.Series([moment.isoformat() for moment in moments])))
    assert found.dtype == np.int32
    assert found.tolist() == [int(f"{moment:%Y%m%d}") for moment in moments]
