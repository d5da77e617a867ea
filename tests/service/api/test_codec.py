"""What a body costs to read, whatever it says."""

import gc
import json
from collections.abc import Iterator
from typing import Any

import ormsgpack
import pytest

from service.api import codec
from service.api.media import Media
from service.errors import InvalidRequest

MANY = 200_000
FORMS = [(Media.JSON, lambda value: json.dumps(value).encode()), (Media.MSGPACK, ormsgpack.packb)]
BODIES: list[Any] = [
    {"candidates": [[]] * MANY},
    {"candidates": [{"id": 1}] * MANY},
    {"candidates": [1], "user": [[]] * MANY},
    {"candidates": [1], "user": {"seen": [[]] * MANY}},
    [[]] * MANY,
]


@pytest.fixture
def passes() -> Iterator[list[int]]:
    """The collector's passes since the test began, by generation."""
    found: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            found.append(about["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


@pytest.mark.parametrize(("media", "write"), FORMS)
@pytest.mark.parametrize("value", BODIES, ids=lambda value: str(value)[:40])
def test_a_body_of_many_lists_is_not_searched_for_garbage(
    value: Any, media: Media, write: Any, passes: list[int]
) -> None:
    """Neither while it is read nor after that: nothing of it is left, though the refusal is still there."""
    body = write(value)
    held = len(gc.get_objects())
    passes.clear()
    with pytest.raises(InvalidRequest) as caught:
        codec.decode_rank(body, 2_000, media)
    assert len(passes) < 20
    assert len(gc.get_objects()) < held + MANY // 10
    assert gc.isenabled()
    assert caught.value is not None


@pytest.mark.parametrize("was_on", [True, False])
@pytest.mark.parametrize("body", [b'{"candidates": [1]}', b'{"candidates": []}', b"{"])
def test_the_collector_is_left_as_it_was(body: bytes, was_on: bool) -> None:
    """On or off, whether the body is read or refused."""
    if not was_on:
        gc.disable()
    try:
        codec.decode_rank(body, 2)
    except InvalidRequest:
        assert body != b'{"candidates": [1]}'
    finally:
        is_on = gc.isenabled()
        gc.enable()
    assert is_on == was_on


@pytest.mark.parametrize(("media", "write"), FORMS)
def test_too_many_candidates_are_counted_before_they_are_looked_at(media: Media, write: Any) -> None:
    """They are refused for their number, not for what the first is."""
    with pytest.raises(InvalidRequest, match=r"^candidates: 3 candidates; send at most 2") as caught:
        codec.decode_rank(write({"candidates": [[], [], []], "surprise": 1}), 2, media)
    assert caught.value.field == "candidates"
    with pytest.raises(InvalidRequest, match=r"^candidates\[0\]: an id is a string"):
        codec.decode_rank(write({"candidates": [[], []]}), 2, media)
