"""What is written in one turn of the loop goes out together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from service.corked import Corked


class Wire(asyncio.Transport):
    """Remembers what was sent, and how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.gone = False

    def is_closing(self) -> bool:
        """Has whoever is at the other end left?"""
        return self.gone

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Send at once; as uvloop's, it raises where there is nobody any more."""
        if self.gone:
            raise RuntimeError("the handler is closed")
        self.sent.append(b"".join(list_of_data))

    def close(self) -> None:
        """Nothing is sent after that."""
        self.sent.append(b"closed")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is asked of the transport beneath."""
        return name


async def test_what_is_written_in_a_turn_is_sent_at_once() -> None:
    """And what is written in the next, after it."""
    wire = Wire()
    corked = Corked(wire, asyncio.get_running_loop())
    corked.write(b"head")
    corked.write(b"body")
    assert wire.sent == []
    await asyncio.sleep(0)
    corked.write(b"next")
    await asyncio.sleep(0)
    assert wire.sent == [b"headbody", b"next"]


async def test_closing_loses_nothing() -> None:
    """What was written before it is sent before it, once."""
    wire = Wire()
    corked = Corked(wire, asyncio.get_running_loop())
    corked.write(b"last")
    corked.close()
    await asyncio.sleep(0)
    assert wire.sent == [b"last", b"closed"]


async def test_nothing_is_sent_to_a_client_that_left_meanwhile() -> None:
    """It has reset the connection between the write and the loop's next turn; that is no error of ours."""
    errors: list[dict[str, Any]] = []
    loop, wire = asyncio.get_running_loop(), Wire()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    Corked(wire, loop).write(b"answer")
    wire.gone = True
    await asyncio.sleep(0)
    assert (wire.sent, errors) == ([], [])


async def test_all_else_is_the_transport_s() -> None:
    """As who is at the other end."""
    assert Corked(Wire(), asyncio.get_running_loop()).get_extra_info("peername") == "peername"
