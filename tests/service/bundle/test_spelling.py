"""How a category is spelled: many at once as each by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.bundle.spelling import TRUTH, text, texts

SPELLINGS = (
    st.sampled_from([*TRUTH, "0", "3.0", "-3.00", "007", "1.10", "0.05", ".0", "-0.0", "a.0b", ""])
    | st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True)
    | st.text(max_size=3)
)


@given(st.lists(SPELLINGS, max_size=5))
def test_many_are_spelled_as_each_by_itself(values: list[str]) -> None:
    """Whatever stands beside them; and they come as they went in, from a list or once through."""
    assert texts(values) == texts(iter(values)) == [text(value) for value in values]
