"""What is read from a request in MessagePack: the same as from JSON, and nothing that JSON has not."""

import json
import math
import struct
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import codec
from service.api.media import Media
from service.errors import InvalidRequest
from service.wire import RankRequest
from tests.service.api.test_wire import ANY_JSON, FAULTS, FIELDS


def decode(body: bytes, most: int = 2_000) -> RankRequest:
    """The request that a body says."""
    return codec.decode_rank(body, most, Media.MSGPACK)


def packed(value: Any) -> bytes | None:
    """As MessagePack, where there are such values in it."""
    try:
        return ormsgpack.packb(value)
    except (TypeError, ValueError):
        return None


def says(read: Any, body: bytes) -> object:
    """What is read of a body, or why not."""
    try:
        return read(body)
    except InvalidRequest as error:
        return (error.field, str(error))


def parsed(body: str | bytes) -> Any:
    """A faulty request, where it is JSON and MessagePack can say it; else None."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if packed(value) else None


@pytest.mark.parametrize(
    ("value", "field", "word"),
    [(value, field, word) for body, field, word in FAULTS if (value := parsed(body)) is not None],
    ids=lambda value: str(value)[:50],
)
def test_a_bad_request_is_refused_as_in_json(value: Any, field: str | None, word: str) -> None:
    """Every fault that both can say: the same field and the same sentence."""
    with pytest.raises(InvalidRequest) as caught:
        decode(ormsgpack.packb(value), 2)
    assert caught.value.field == field
    assert word in str(caught.value)


@given(st.dictionaries(FIELDS, ANY_JSON | st.lists(st.integers() | st.text(), min_size=1), max_size=6))
def test_both_forms_are_read_alike(body: dict[str, Any]) -> None:
    """The same request, or the same refusal."""
    if (bytes_ := packed(body)) is not None:
        in_json = json.dumps(body).encode()
        assert says(decode, bytes_) == says(lambda given: codec.decode_rank(given, 2_000), in_json)


BOMBS = [
    b"",
    b"\x81",  # ends before its entry
    b"\xc1",  # a byte that means nothing
    b"\xdd\xff\xff\xff\xff",  # four thousand million entries, none of which is there
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x81\xaacandidates\xdd\x7f\xff\xff\xff\x01",
    b"\xdc\xff\xff" * 100_000,  # in each of them another
    b"\x91" * 100_000 + b"\x01",
    b"\x81\xa1a" * 100_000 + b"\x01",
    b"\x81\xaacandidates\x91\xc7\x03\x05abc",  # an extension
    b"\x81\xaacandidates\x91\xd6\xff\x00\x00\x00\x01",  # a time
    b"\x81\xaacandidates\x91\xa2\xff\xfe",  # no UTF-8
    b"\x81\x01\x91\x01",  # a key that is no text
    b"\x81\xaacandidates\x91\x01\x01",  # something after the end
    b"\x81\xaacandidates\x91\x01\xa3end",
    b"\x81\xaacandidates\x91\x01\xc0\xc0",
]


@pytest.mark.parametrize("body", BOMBS, ids=lambda body: body[:12].hex())
def test_what_is_no_messagepack_is_refused(body: bytes) -> None:
    """In one sentence, whatever lengths and depths it claims; no memory is taken for what is not there."""
    with pytest.raises(InvalidRequest) as caught:
        decode(body)
    assert caught.value.field is None
    assert "MessagePack" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("body", "field", "word"),
    [
        ({"candidates": [b"1"]}, "candidates[0]", "string, or an integer"),
        ({"candidates": [{"id": b"1"}]}, "candidates[0].id", "string, or an integer"),
        ({"candidates": ["1"], "user_id": b"1"}, "user_id", "string, or an integer"),
        ({"candidates": ["1"], "user": {"name": b"x"}}, "user.name", "bytes"),
        ({"candidates": ["1"], "user": {"seen": [1, b"x"]}}, "user.seen", "bytes"),
        ({"candidates": ["1"], "user": {"age": math.nan}}, "user.age", "finite"),
        ({"candidates": ["1"], "ranker": b"x"}, "ranker", "string"),
        ({"candidates": ["1"], "request_id": b"x"}, "request_id", "string"),
        ({"candidates": ["1"], "fusion": b"x"}, "fusion", "object"),
        ({"candidates": b"1"}, "candidates", "list"),
    ],
    ids=str,
)
def test_bytes_are_no_text(body: dict[str, Any], field: str, word: str) -> None:
    """JSON has none: they are refused by name wherever they stand."""
    with pytest.raises(InvalidRequest) as caught:
        decode(ormsgpack.packb(body))
    assert caught.value.field == field
    assert word in str(caught.value)


def test_what_is_nested_within_limits_is_refused_by_name() -> None:
    """As deep as is read at all."""
    with pytest.raises(InvalidRequest, match=r"^user\.a: nested too deep"):
        decode(b"\x82\xaacandidates\x91\x01\xa4user\x81\xa1a" + b"\x91" * 1_000 + b"\x01")


def test_every_width_of_a_number_is_read() -> None:
    """Libraries write small numbers in few bytes, or not."""
    wide = (
        b"\x81\xaacandidates\x95" + b"\xd3" + struct.pack(">q", -3) + b"\xcf" + struct.pack(">Q", 2**64 - 1)
    )
    assert decode(wide + b"\xd0\xff\x07\xa1x").candidates == ["-3", str(2**64 - 1), "-1", "7", "x"]
    half = b"\x82\xaacandidates\x91\x01\xa4user\x81\xa1a\xca" + struct.pack(">f", 0.5)
    assert decode(half).user == {"a": 0.5}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Nothing but `InvalidRequest` comes out."""
    says(decode, body)
