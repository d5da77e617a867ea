"""How long a request is worked on."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from service.api.patience import Patience
from service.errors import DeadlineExceeded

LONG_S = 30.0


def now() -> float:
    """The event loop's clock."""
    return asyncio.get_running_loop().time()


def caller(*messages: str) -> Callable[[], Awaitable[dict[str, Any]]]:
    """One that sends these messages, and then nothing more."""
    coming = list(messages)

    async def receive() -> dict[str, Any]:
        if not coming:
            await asyncio.sleep(LONG_S)
        return {"type": coming.pop(0)}

    return receive


@contextmanager
def watched(receive: Callable[[], Awaitable[dict[str, Any]]], deadline: float) -> Iterator[None]:
    """Patience with a request whose body has been read."""
    with Patience(deadline) as patience:
        patience.watch(receive, deadline)
        yield


async def test_work_that_ends_in_time_is_left_alone() -> None:
    """Also work that takes longer than it takes to begin to watch; nothing is left behind."""
    for takes_s in (0.0, 0.05):
        with watched(caller(), now() + LONG_S):
            await asyncio.sleep(takes_s)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("after_s", [-1.0, 0.0, 0.002, 0.03])
async def test_a_deadline_ends_it(after_s: float) -> None:
    """One that has passed already, too; and the task goes on after it."""
    with pytest.raises(DeadlineExceeded, match="raise deadline_ms"), watched(caller(), now() + after_s):
        await asyncio.sleep(LONG_S)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("after_s", [-1.0, 0.0, 0.002, 0.03])
async def test_a_deadline_ends_the_wait_for_a_body(after_s: float) -> None:
    """And says that it was the body that was late."""
    with pytest.raises(DeadlineExceeded, match="before the body was there"), Patience(now() + after_s):
        await asyncio.sleep(LONG_S)


@pytest.mark.parametrize("body_s", [0.0, 0.02])
async def test_a_sooner_deadline_holds_once_the_body_is_there(body_s: float) -> None:
    """Whether that came at once or took its time."""

    async def work() -> None:
        with Patience(now() + LONG_S) as patience:
            await asyncio.sleep(body_s)
            patience.watch(caller(), now() + 0.002)
            await asyncio.sleep(LONG_S)

    with pytest.raises(DeadlineExceeded, match="raise deadline_ms"):
        await work()


@pytest.mark.parametrize("first_s", [-1.0, 0.002, 0.02])
async def test_a_later_deadline_holds_once_the_body_is_there(first_s: float) -> None:
    """Though the one until then passes."""
    with Patience(now() + first_s) as patience:
        patience.watch(caller(), now() + LONG_S)
        await asyncio.sleep(0.04)


@pytest.mark.parametrize("body_s", [0.0, 0.02])
async def test_a_caller_is_watched_once_its_body_is_there(body_s: float) -> None:
    """Not before: nobody else may take what it sends."""
    there = False

    async def receive() -> dict[str, Any]:
        assert there
        return {"type": "http.disconnect"}

    async def work() -> None:
        nonlocal there
        with Patience(now() + LONG_S) as patience:
            await asyncio.sleep(body_s)
            there = True
            patience.watch(receive, now() + LONG_S)
            await asyncio.sleep(LONG_S)

    with pytest.raises(ClientDisconnect):
        await work()


async def test_a_caller_who_leaves_ends_it() -> None:
    """Whatever it sent before that."""
    with (
        pytest.raises(ClientDisconnect),
        watched(caller("http.request", "http.disconnect"), now() + LONG_S),
    ):
        await asyncio.sleep(LONG_S)


async def test_an_error_of_the_works_own_stays_what_it_is() -> None:
    """Though the deadline passed while it was made."""

    async def work() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError), watched(caller(), now() + 0.005):
        await work()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_deadline_and_a_caller_who_leaves_at_once_end_it_once() -> None:
    """In one turn of the loop; whichever was first is told, and the task goes on after it."""
    task, gone, held, deadline = asyncio.current_task(), asyncio.Event(), threading.Event(), now() + 0.03
    assert task is not None

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        with watched(receive, deadline):
            await asyncio.sleep(0.02)  # it is watched by now
            gone.set()
            held.wait(deadline + 0.005 - now())  # the loop finds both when it comes back
            await asyncio.sleep(LONG_S)

    with pytest.raises((DeadlineExceeded, ClientDisconnect)):
        await work()
    await asyncio.sleep(0)
    assert task.cancelling() == 0


@pytest.mark.parametrize("after_s", [LONG_S, 0.0])
async def test_who_cancels_it_cancels_it(after_s: float) -> None:
    """Even when the deadline passes at the same time."""
    begun = asyncio.Event()

    async def work() -> None:
        with watched(caller(), now() + after_s):
            begun.set()
            await asyncio.sleep(LONG_S)

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
