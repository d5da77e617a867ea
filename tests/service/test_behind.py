"""Work behind the requests: in a thread that lasts, at a lower priority, whatever the work does."""

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from service.behind import NICE, Behind


@pytest.fixture
def behind() -> Iterator[Behind]:
    """A thread to give work to."""
    behind = Behind("work")
    yield behind
    behind.close()


async def test_one_thread_does_it_all(behind: Behind) -> None:
    """In the order that it came, and it keeps no process from ending."""
    order: list[int] = []

    def work(number: int) -> threading.Thread:
        order.append(number)
        return threading.current_thread()

    threads = await asyncio.gather(*(behind.do(partial(work, number)) for number in range(20)))
    assert order == list(range(20))
    assert len(set(threads)) == 1
    assert (threads[0].name, threads[0].daemon) == ("work", True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is a process's")
async def test_it_steps_back(behind: Behind) -> None:
    """A little: its thread alone, and none that is asked for later."""
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert await behind.do(priority) == min(own + NICE, 19)
    assert await asyncio.to_thread(priority) == own


async def test_it_works_where_no_priority_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in some sandboxes: at the process's own, then."""

    def forbid(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "setpriority", forbid)
    behind = Behind("work")
    assert await asyncio.wait_for(behind.do(lambda: "done"), 5) == "done"
    behind.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(3), ValueError),
        (StopIteration(3), RuntimeError),
        (SystemExit(3), RuntimeError),
        (KeyboardInterrupt(), RuntimeError),
        (asyncio.CancelledError(), RuntimeError),
    ],
)
async def test_nothing_that_work_raises_ends_it(
    behind: Behind, error: BaseException, kind: type[Exception]
) -> None:
    """What no future may carry, or what would end the thread, is an error like any other, and is named."""

    def fail() -> None:
        raise error

    with pytest.raises(kind) as raised:
        await behind.do(fail)
    assert kind is ValueError or str(raised.value) == repr(error)
    assert await behind.do(lambda: "on it goes") == "on it goes"


async def test_what_nobody_waits_for_any_more_is_not_begun(behind: Behind) -> None:
    """Where it was cancelled before its turn; what comes after it is done."""
    free, begun = threading.Event(), list[int]()
    first = asyncio.create_task(behind.do(lambda: free.wait(10)))
    second = asyncio.create_task(behind.do(lambda: begun.append(2)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    third = asyncio.create_task(behind.do(lambda: begun.append(3)))
    free.set()
    assert await first
    await third
    assert begun == [3]


async def test_it_keeps_nothing_in_memory(behind: Behind) -> None:
    """What work was about, and what came of it, is its caller's alone once it is done."""

    class Model:
        pass

    about, given = Model(), [Model()]
    kept = [weakref.ref(about), weakref.ref(given[0])]
    assert await behind.do(lambda about=about: given.pop()) is not None  # type: ignore[misc]
    await behind.do(lambda: None)
    del about
    assert [ref() for ref in kept] == [None, None]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
async def test_an_error_keeps_nothing_in_memory(behind: Behind, kind: type[BaseException]) -> None:
    """What work that failed was about goes with the error: the two are in no cycle."""

    class Model:
        pass

    kept: list[weakref.ref[Model]] = []

    def fail(about: Model) -> None:
        made = Model()
        kept.extend([weakref.ref(about), weakref.ref(made)])
        raise kind(3)

    gc.disable()  # so that a cycle would show
    try:
        with suppress(ValueError, RuntimeError):
            await behind.do(partial(fail, Model()))
        await behind.do(lambda: None)
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()
