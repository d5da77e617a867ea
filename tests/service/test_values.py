"""Features as they travel: the check in one go refuses what a check of each value refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.bundle.columns import Value
from service.values import MAX_TEXT, Features

FEATURES: TypeAdapter[dict[str, Value]] = TypeAdapter(Features)
HUGE = [2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400]
VALUES: st.SearchStrategy[object] = (
    st.sampled_from([*HUGE, *(-number for number in HUGE), math.nan, math.inf, -math.inf, 1e308, -1e308])
    | st.sampled_from(
        [True, False, None, b"x", {}, "", "x" * MAX_TEXT, "x" * (MAX_TEXT + 1), [1, None], ["a"]]
    )
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
)
COMMON = st.sampled_from([0.5, -3, 2**53 - 1, math.nan, "x"])


def may_be(value: object) -> bool:
    """Is it a value that a feature may have?"""
    if isinstance(value, list):
        return all(each is not None and not isinstance(each, list) and may_be(each) for each in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return value is None or (isinstance(value, float) and math.isfinite(value))


@given(st.lists(VALUES, max_size=4) | st.lists(COMMON, max_size=4))
def test_what_no_feature_may_be_is_refused_whatever_stands_beside_it(values: list[object]) -> None:
    """And named, the first of them; all else comes out as it went in."""
    given_ = {f"f{at}": value for at, value in enumerate(values)}
    faulty = [name for name, value in given_.items() if not may_be(value)]
    if not faulty:
        assert FEATURES.validate_python(given_) == given_
        return
    with pytest.raises(ValidationError) as refused:
        FEATURES.validate_python(given_)
    (error,) = refused.value.errors()
    assert error["ctx"]["name"] == faulty[0]
