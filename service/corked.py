"""A connection's transport that sends an answer's head and body together.

uvicorn writes one after the other, and the loop sends each as it comes: two calls of the system, two packets,
and a client that wakes for a head and has to wait for the rest.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Corked:
    """Holds what is written until the loop's next turn; in all else the transport that it is made of."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, with all that follows in this turn."""
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        """End the connection when all has been sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():  # else its client has left in the meantime
            self._transport.writelines(pieces)
