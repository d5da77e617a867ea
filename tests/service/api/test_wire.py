"""What is read from a request, and what is refused by name."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import codec
from service.errors import InvalidRequest
from service.values import MAX_FIELDS, MAX_LIST, MAX_TEXT
from service.wire import Candidate, RankRequest


def decode(body: str | bytes, most: int = 2_000) -> RankRequest:
    """The request that a body says."""
    return codec.decode_rank(body.encode() if isinstance(body, str) else body, most)


def test_the_least_request_has_candidates_alone() -> None:
    """Everything else has a default."""
    wanted = decode('{"candidates": ["a"]}')
    assert wanted == RankRequest(candidates=["a"])
    assert (wanted.ranker, wanted.user_id, wanted.user, wanted.limit, wanted.tasks) == (
        "default",
        None,
        {},
        None,
        False,
    )


def test_integers_are_read_as_their_decimal_text() -> None:
    """Ids are strings, negative ones too, wherever they stand."""
    wanted = decode('{"user_id": -7, "candidates": [12, -3, "x", {"id": 18446744073709551615}, 0]}')
    assert wanted.user_id == "-7"
    assert wanted.candidates == ["12", "-3", "x", Candidate(id="18446744073709551615"), "0"]


def test_candidates_that_come_twice_stay_twice() -> None:
    """Each keeps its place, with the features it came with."""
    wanted = decode(
        '{"candidates": [1, "1", {"id": 1, "features": {"a": 1}}, {"id": 1, "features": {"a": 2}}]}'
    )
    assert wanted.candidates[:2] == ["1", "1"]
    assert [one.features for one in wanted.candidates[2:] if isinstance(one, Candidate)] == [
        {"a": 1},
        {"a": 2},
    ]


def test_every_kind_of_feature_value_comes_through() -> None:
    """Values are handed on as they were sent: what they mean is the schema's to say."""
    values = {"a": "x", "b": 3, "c": 0.5, "d": True, "e": None, "f": ["x", 1, 0.5, False], "g": []}
    assert decode(json.dumps({"candidates": [1], "user": values, "context": values})).user == values


FAULTS: list[tuple[str | bytes, str | None, str]] = [
    # body, field, a word of the message
    ("", None, "not JSON"),
    ("{", None, "not JSON"),
    ("candidates=1", None, "not JSON"),
    ("[" * 100_000, None, "recursion"),
    ('{"candidates": ' + "[" * 100_000, None, "recursion"),
    ('{"candidates": ["\\ud800"]}', None, "not JSON"),
    (b'{"candidates": ["\xff"]}', None, "not JSON"),
    ('{"candidates": [1' + "0" * 5_000 + "]}", None, "out of range"),
    ("[]", None, "object"),
    ("7", None, "object"),
    ("{}", "candidates", "required"),
    ('{"candidates": []}', "candidates", "at least one"),
    ('{"candidates": {}}', "candidates", "list"),
    ('{"candidates": "1"}', "candidates", "list"),
    ('{"candidates": [1, 2, 3]}', "candidates", "at most 2"),
    ('{"candidates": [1, true]}', "candidates[1]", "string, or an integer"),
    ('{"candidates": [null]}', "candidates[0]", "string, or an integer"),
    ('{"candidates": [1.0]}', "candidates[0]", "string, or an integer"),
    ('{"candidates": [NaN]}', "candidates[0]", "string, or an integer"),
    ('{"candidates": [[1]]}', "candidates[0]", "string, or an integer"),
    ('{"candidates": [18446744073709551616]}', "candidates[0]", "64 bits"),
    ('{"candidates": ["' + "x" * (MAX_TEXT + 1) + '"]}', "candidates[0]", str(MAX_TEXT)),
    ('{"candidates": [{}]}', "candidates[0].id", "required"),
    ('{"candidates": [{"id": {}}]}', "candidates[0].id", "string, or an integer"),
    ('{"candidates": [1, {"id": 1, "featurs": {}}]}', "candidates[1].featurs", "no such field"),
    ('{"candidates": [{"id": 1, "features": []}]}', "candidates[0].features", "object"),
    ('{"candidates": [{"id": 1, "features": {"id": NaN}}]}', "candidates[0].features.id", "finite"),
    ('{"candidates": [1], "user": {"a": 1, "b": NaN, "c": "x", "d": 2.5}}', "user.b", "finite"),
    ('{"candidates": [{"id": 1, "features": {"a": [1, 1e999]}}]}', "candidates[0].features.a", "finite"),
    ('{"candidates": [1], "user_id": 1.5}', "user_id", "string, or an integer"),
    ('{"candidates": [1], "user": {"age": 1e999}}', "user.age", "finite"),
    ('{"candidates": [1], "user": {"age": -Infinity}}', "user.age", "finite"),
    ('{"candidates": [1], "user": {"age": 1' + "0" * 300 + "}}", "user.age", "64 bits"),
    ('{"candidates": [1], "user": {"age": {"years": 3}}}', "user.age", "nested"),
    ('{"candidates": [1], "user": {"seen": [[1]]}}', "user.seen", "nested"),
    ('{"candidates": [1], "user": {"seen": [1, null]}}', "user.seen", "null"),
    ('{"candidates": [1], "user": {"name": "' + "x" * (MAX_TEXT + 1) + '"}}', "user.name", str(MAX_TEXT)),
    ('{"candidates": [1], "context": 3}', "context", "object"),
    ('{"candidates": [1], "limit": 0}', "limit", "1"),
    ('{"candidates": [1], "limit": "3"}', "limit", "integer"),
    ('{"candidates": [1], "limit": true}', "limit", "integer"),
    ('{"candidates": [1], "tasks": 1}', "tasks", "boolean"),
    ('{"candidates": [1], "deadline_ms": 0}', "deadline_ms", "greater than 0"),
    ('{"candidates": [1], "deadline_ms": 1e999}', "deadline_ms", "finite"),
    ('{"candidates": [1], "ranker": ""}', "ranker", "1 character"),
    ('{"candidates": [1], "ranker": 3}', "ranker", "string"),
    ('{"candidates": [1], "request_id": "a\\r\\nb"}', "request_id", "pattern"),
    ('{"candidates": [1], "model": "m"}', "model", "no such field"),
    ('{"candidates": [1], "fusion": 3}', "fusion", "object"),
    ('{"candidates": [1], "fusion": {"groups": {}}}', "fusion.groups", "list"),
    ('{"candidates": [1], "fusion": {"groups": []}}', "fusion.groups", "at least 1"),
    (
        '{"candidates": [1], "fusion": {"groups": [{"factors": [{"task": "a", "weight": NaN}]}]}}',
        "fusion.groups[0].factors[0].weight",
        "finite",
    ),
    (
        '{"candidates": [1], "fusion": {"groups": [{"factors": [{"task": "a", "item": "b"}]}]}}',
        "fusion.groups[0].factors[0]",
        "either task or item",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field", "word"), FAULTS, ids=lambda value: str(value)[:50])
def test_a_bad_request_is_refused_by_name(body: str | bytes, field: str | None, word: str) -> None:
    """The culprit's path and what to do about it, in one sentence."""
    with pytest.raises(InvalidRequest) as caught:
        decode(body, 2)
    assert caught.value.field == field
    assert word in str(caught.value)
    assert len(str(caught.value)) < 300


def test_features_are_bounded() -> None:
    """Neither too many names nor too long a list is read."""
    decode(
        json.dumps(
            {
                "candidates": [1],
                "user": {str(n): n for n in range(MAX_FIELDS)},
                "context": {"a": [1] * MAX_LIST},
            }
        )
    )
    with pytest.raises(InvalidRequest, match=r"^user: more than 1000 features"):
        decode(json.dumps({"candidates": [1], "user": {str(n): n for n in range(MAX_FIELDS + 1)}}))
    with pytest.raises(InvalidRequest, match=r"^context.a: a list of 10001 values"):
        decode(json.dumps({"candidates": [1], "context": {"a": [1] * (MAX_LIST + 1)}}))


def test_a_request_full_of_faults_is_refused_by_the_first() -> None:
    """However many there are, one is named, and none of the others costs anything to speak of."""
    body = (
        '{"candidates": ['
        + ",".join(["true"] * 50_000)
        + '], "user": {'
        + '"a": NaN,' * 50_000
        + '"b": NaN}}'
    )
    with pytest.raises(InvalidRequest, match=r"^user\.a: not a finite number"):
        decode(body, 50_000)
    with pytest.raises(InvalidRequest, match=r"^candidates: 50000 candidates; send at most 49999"):
        decode(body, 49_999)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*RankRequest.model_fields, "id", "features", "surprise"])


@given(st.dictionaries(FIELDS, ANY_JSON | st.lists(st.integers() | st.text(), min_size=1), max_size=6))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    """Nothing but `InvalidRequest` comes out, and what is read holds strings for ids."""
    with suppress(InvalidRequest):
        wanted = decode(json.dumps(body))
        assert all(isinstance(one if isinstance(one, str) else one.id, str) for one in wanted.candidates)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Bytes that are no JSON at all are refused in the same way."""
    with pytest.raises(InvalidRequest):
        decode(body)
