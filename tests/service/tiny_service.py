"""A service of two routes under the real supervisor and workers; `main` has its command line.

`GET /readyz` is 200, or 503 while draining; `/taken` is how many cores runs take, and `/take` takes two; any
other path answers with the worker's pid, after as many seconds as the path says: `/0.2`.
TINY_BROKEN names the worker that fails at start, TINY_SLOW one that hangs;
TINY_LINGER is how long, in seconds, a worker waits for requests on their way when it has ceased to accept;
TINY_PATIENCE how many looks it leaves a caller to a worker with fewer connections.
"""

import asyncio
import logging
import os
import sys
import time

from service.door import PATIENCE
from service.supervisor import Supervisor, inherited, listen
from service.tally import Tally
from service.worker import LINGER_S, Message, Receive, Send, run_worker


class TinyApp:
    """What a worker serves."""

    def __init__(self, index: int, tally: Tally) -> None:
        self.index, self.tally = index, tally
        self.draining = False

    def drain(self) -> None:
        """No longer ready."""
        self.draining = True

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """An ASGI app."""
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["path"] == "/readyz":
            await answer(send, 503 if self.draining else 200, b"draining" if self.draining else b"ready")
        elif scope["path"] == "/taken":
            await answer(send, 200, str(self.tally.taken(0)).encode())
        else:
            if scope["path"] == "/take":
                self.tally.take(self.index, 2)
            seconds = scope["path"][1:]
            await asyncio.sleep(0 if seconds in {"", "take"} else float(seconds))
            await answer(send, 200, str(os.getpid()).encode())

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Starts, unless told otherwise, and ends."""
        await receive()
        if os.environ.get("TINY_BROKEN") == str(self.index):
            await send({"type": "lifespan.startup.failed", "message": "broken on purpose"})
            return
        if os.environ.get("TINY_SLOW") == str(self.index):
            logging.info("hangs")
            time.sleep(60)  # noqa: ASYNC251  as a load that holds the loop
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Send, status: int, body: bytes) -> None:
    """A whole answer of known length."""
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main(role: str, grace_s: str, workers: str = "2", drain_limit_s: str = "20") -> int:
    """The supervisor, or, started by it, a worker."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if role == "worker":
        place = inherited()
        app = TinyApp(place.index, place.tally)
        linger_s = float(os.environ.get("TINY_LINGER", LINGER_S))
        run_worker(
            app,
            place.sock,
            tally=place.tally,
            index=place.index,
            drain_grace_s=float(grace_s),
            on_drain=app.drain,
            linger_s=linger_s,
            patience=int(os.environ.get("TINY_PATIENCE", PATIENCE)),
        )
        return 0
    supervisor = Supervisor(
        [sys.executable, "-m", "tests.service.tiny_service", "worker", grace_s],
        listen("127.0.0.1", 0),
        workers=int(workers),
        drain_limit_s=float(drain_limit_s),
    )
    return asyncio.run(supervisor.run())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
