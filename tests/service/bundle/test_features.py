"""One feature: its slots, against a loop over rows."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Lists, Numbers, Texts, Vectors, strings
from service.bundle.errors import FeatureError
from service.bundle.features import BOUND, COUNTED, MATCH_ROWS, encode_column, match_counts, transformed
from service.bundle.kinds import Categorical, Fitted, Multi, Numeric, Scale, SequenceOfIds, Vector
from service.bundle.vocabulary import Vocabulary

ABC = Vocabulary(strings("abc"))
number = st.floats(allow_infinity=True, allow_nan=True)


def numeric(**fields: object) -> Numeric:
    """A numeric feature named n."""
    return Numeric.model_validate({"kind": "numeric", "name": "n", "source": "user.n", **fields})


@given(
    st.lists(number, max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.sampled_from(["none", "log1p"]),
)
def test_standardised(values: list[float], mean: float, deviation: float, transform: str) -> None:
    """``(f(x) - mean) / deviation`` within the bound, 0 and a flag where missing; finite whatever comes."""
    fitted = Fitted(scales={"n": Scale(mean=mean, deviation=deviation)})
    slots = encode_column(numeric(transform=transform), Numbers(np.array(values, np.float64)), fitted, None)
    assert slots.dtype == np.float32
    assert np.isfinite(slots).all()
    for value, (scaled, missing) in zip(values, slots, strict=True):
        if math.isnan(value):
            assert (scaled, missing) == (0, 1)
            continue
        value = math.log1p(max(value, 0)) if transform == "log1p" else value
        expected = max(-BOUND, min(BOUND, (value - mean) / deviation)) if value != mean else 0.0
        assert missing == 0
        assert scaled == pytest.approx(expected, rel=1e-6, abs=1e-30)


def test_unfitted_scale_is_none() -> None:
    """Without a fitted scale a number enters as it is."""
    slots = encode_column(numeric(), Numbers(np.array([3.5])), Fitted(), None)
    assert slots.tolist() == [[3.5, 0.0]]


@given(st.lists(number, max_size=5), st.lists(st.integers(-3, 3), unique=True, max_size=4))
def test_buckets(values: list[float], edges: list[int]) -> None:
    """Row 0 is missing; else one more than the number of edges at or below the value."""
    fitted = Fitted(edges={"n": tuple(sorted(edges))})
    rows = encode_column(numeric(buckets=5), Numbers(np.array(values, np.float64)), fitted, None)
    assert rows.dtype == np.int32
    assert rows[:, 0].tolist() == [
        0 if math.isnan(value) else 1 + sum(edge <= value for edge in edges) for value in values
    ]


def test_log1p_of_what_is_below_zero() -> None:
    """log1p takes a negative number as zero."""
    assert transformed(numeric(transform="log1p"), np.array([-5.0, 0.0])).tolist() == [0, 0]


def test_vector() -> None:
    """Numbers as they are, within the bound; zeros and a flag where any is missing."""
    feature = Vector(kind="vector", name="v", source="item.v", width=2)
    column = Vectors(np.array([[1, -2], [np.nan, 3], [np.inf, 1e30]], np.float32))
    slots = encode_column(feature, column, Fitted(), None)
    assert slots.tolist() == [[1, -2, 0], [0, 0, 1], [BOUND, BOUND, 0]]
    listed = Lists.of([["1e300", "-1e300"]])
    assert encode_column(feature, listed, Fitted(), None).tolist() == [[BOUND, -BOUND, 0]]


def test_pooled_keep_the_first_or_the_last() -> None:
    """A multi keeps its first values and a sequence its last, in order, padded by row 0."""
    lists = Lists.of(["abc", "", "ca", "x"])
    multi = Multi(kind="multi", name="m", source="item.m", max_length=2)
    assert encode_column(multi, lists, Fitted(), ABC).tolist() == [[1, 2], [0, 0], [3, 1], [0, 0]]
    sequence = SequenceOfIds(kind="sequence", name="s", source="user.s", max_length=2)
    assert encode_column(sequence, lists, Fitted(), ABC).tolist() == [[2, 3], [0, 0], [3, 1], [0, 0]]
    single = Texts(strings(["b", None]))
    assert encode_column(multi, single, Fitted(), ABC).tolist() == [[2, 0], [0, 0]]


def test_a_value_of_another_kind() -> None:
    """The refusal names the path, not the feature."""
    categorical = Categorical(kind="categorical", name="c", source="item.tag")
    with pytest.raises(FeatureError, match=r"^item\.tag: expected a single value"):
        encode_column(categorical, Lists.of(["ab"]), Fitted(), ABC)
    with pytest.raises(FeatureError, match=r"^user\.n: expected a number, got 'x'"):
        encode_column(numeric(), Texts(strings("x")), Fitted(), None)
    with pytest.raises(FeatureError, match=r"^c: has no vocabulary"):
        encode_column(categorical, Texts(strings("x")), Fitted(), None)


values = st.integers(0, 6)


@given(st.data(), st.integers(1, 3), st.integers(1, 5), st.booleans(), st.sampled_from([7, COUNTED + 1]))
def test_match(data: st.DataObject, k: int, length: int, is_log: bool, size: int) -> None:
    """As often as any of the candidate's values stands in the sequence; 0 is nothing, on both sides."""
    n = data.draw(st.integers(1, 4))
    items = data.draw(st.lists(st.lists(values, min_size=k, max_size=k), min_size=n, max_size=n))
    rows = n if is_log else 1
    sequences = data.draw(
        st.lists(st.lists(values, min_size=length, max_size=length), min_size=rows, max_size=rows)
    )
    counts = match_counts(np.array(items, np.int32), np.array(sequences, np.int32), None, size)
    expected = [
        sum(Counter(sequences[at if is_log else 0])[value] for value in item if value)
        for at, item in enumerate(items)
    ]
    assert counts.dtype == np.float32
    assert counts.tolist() == expected


@given(st.data(), st.booleans(), st.sampled_from([7, COUNTED + 1]))
def test_match_through_ids(data: st.DataObject, is_log: bool, size: int) -> None:
    """An id of the sequence stands for its item's values."""
    through = data.draw(st.lists(st.tuples(values, values), min_size=4, max_size=4))
    through[0] = (0, 0)
    item = data.draw(st.lists(values, min_size=2, max_size=2))
    ids = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    times = 2 if is_log else 1
    counts = match_counts(
        np.array([item] * times, np.int32),
        np.array([ids] * times, np.int32),
        np.array(through, np.int32),
        size,
    )
    listed = Counter(value for i in ids for value in through[i])
    assert counts.tolist() == [sum(listed[value] for value in item if value)] * times


def test_match_of_a_long_log() -> None:
    """A log of more rows than are compared at a time counts as its rows do alone."""
    rng = np.random.default_rng(0)
    n = 2 * MATCH_ROWS + 1
    items, sequences = rng.integers(0, 9, (n, 2), np.int32), rng.integers(0, 9, (n, 5), np.int32)
    counts = match_counts(items, sequences, None, 9)
    for row in (0, MATCH_ROWS - 1, MATCH_ROWS, n - 1):
        alone = match_counts(items[[row]], sequences[[row]], None, 9)
        assert counts[row] == alone[0]
