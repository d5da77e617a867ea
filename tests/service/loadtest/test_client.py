"""Addresses, and what the client makes of odd answers."""

from __future__ import annotations

import asyncio

import pytest

from service.loadtest.client import Pool, Target
from service.loadtest.errors import LoadTestError
from tests.service.loadtest.stub import Asked, Stub, serving, slate


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:8000", Target("http", "127.0.0.1", 8000, "")),
        ("localhost:8000/", Target("http", "localhost", 8000, "")),
        ("https://rank.example", Target("https", "rank.example", 443, "")),
        ("http://rank.example/feed/", Target("http", "rank.example", 80, "/feed")),
        ("http://[::1]:9", Target("http", "::1", 9, "")),
    ],
)
def test_an_address_is_read(url: str, target: Target) -> None:
    """With the scheme's port where none is given, and a proxy's path; shown, it can be read again."""
    assert Target.parse(url) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "http://", "http://a:b", "http://a:99999", "http://a:0", "http://[::1:8000"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """With how to write one."""
    with pytest.raises(LoadTestError, match="write it as http"):
        Target.parse(url)


async def test_answers_in_pieces_and_in_chunks_are_read() -> None:
    """As they come through a proxy; the connection stays."""

    async def rank(asked: Asked) -> bytes:
        _, _, body = slate(asked).partition(b"\r\n\r\n")
        pieces = (body[:7], body[7:])
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    async with serving(Stub(rank)) as stub:
        target = Target.parse(stub.url)
        message = target.message("POST", "/v1/rank", b'{"candidates":["1"]}')
        async with Pool(target, 1) as pool:
            answers = [await pool.ask(message) for _ in range(3)]
    assert {answer.body for answer in answers} == {slate({"candidates": ["1"]}).partition(b"\r\n\r\n")[2]}
    assert all(answer.stays for answer in answers)
    assert len(stub.connections) == 1


async def test_a_call_that_is_given_up_takes_its_connection_along() -> None:
    """Its late answer must not become the next one's."""
    late = asyncio.Event()

    async def rank(asked: Asked) -> bytes:
        if asked["user_id"] == "slow":
            await late.wait()
        return slate(asked)

    async with serving(Stub(rank)) as stub:
        target = Target.parse(stub.url)
        async with Pool(target, 1) as pool:
            slow = target.message("POST", "/v1/rank", b'{"user_id":"slow","candidates":["1"]}')
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.ask(slow), 0.1)
            late.set()
            other = target.message("POST", "/v1/rank", b'{"user_id":"u","candidates":["2"]}')
            answer = await pool.ask(other)
    assert b'"id":"2"' in answer.body
    assert len(stub.connections) == 2
