"""What becomes of work that nobody waits for."""

import asyncio

import pytest

from service.tasks import Tasks


async def test_what_fails_is_told_of_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """With its reason, while the others go on."""
    tasks, done = Tasks("the post was not delivered"), asyncio.Event()

    async def fail() -> None:
        raise ZeroDivisionError("no road")

    async def deliver() -> None:
        await asyncio.sleep(0)
        done.set()

    tasks.start(fail())
    tasks.start(deliver())
    await asyncio.wait_for(done.wait(), 60)
    assert "the post was not delivered" in caplog.text
    assert "no road" in caplog.text


async def test_the_end_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """What is under way is cancelled, puts its things in order, and is no failure."""
    tasks, ended = Tasks("failed"), list[str]()

    async def hold() -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0)
            ended.append("in order")

    tasks.start(hold())
    await asyncio.sleep(0)
    await tasks.end()
    assert (ended, caplog.text) == (["in order"], "")
