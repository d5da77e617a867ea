"""What is lost when a worker is killed, and when the whole service is told to end?

    python -m benchmarks.faults --models models --version 20240511-1

Both under an open-loop load at random times. First workers are killed with SIGKILL, one after another. Prints
which requests failed, how, and whether in a killed worker or in another; how long it took until the next
worker answered; and how often one answered before it could serve. Then the service is told to end by SIGTERM.
Prints when readiness went, how many were answered from then on, how many were lost, and the exit code.
Requests `refused` came after the port had closed, those `reset` as it closed: no worker had them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import uvloop

from benchmarks.load import Connection, Pool, loaded_service, message, poisson, report
from benchmarks.machine import describe
from benchmarks.offline import Offline
from benchmarks.running import Service, deployed, end_on_sigterm, serving

REQUESTS = 40
CONNECTIONS = 16
LOOK_S = 0.01
"""Between two looks at readiness, each on a connection of its own."""
COMES_BACK_S = 60.0
NO_WORKER = ("refused", "reset")


def main() -> None:
    """Run it."""
    parser = loaded_service(__doc__)
    parser.add_argument("--version", required=True, help="the bundle")
    parser.add_argument("--kills", type=int, default=5, help="of workers [%(default)s]")
    parser.add_argument("--pause", type=float, default=3, help="seconds before each [%(default)s]")
    parser.add_argument(
        "--grace", type=float, default=5, help="the service's RANKSERVE_DRAIN_GRACE_S [%(default)s]"
    )
    options = parser.parse_args()
    end_on_sigterm()
    print(describe())
    requests = Offline(options.models / options.version).requests(REQUESTS, options.candidates)
    sent = [message("POST", "/v1/rank", request.body()) for request in requests]
    with (
        deployed(options.models, [options.version]) as models,
        serving(models, workers=options.workers, drain_grace_s=options.grace) as service,
    ):
        print(f"\n{options.workers} workers; {options.rate:g} requests/s of {options.candidates} candidates")
        uvloop.run(kill(service, sent, options))
        uvloop.run(end(service, sent, options))


@dataclass
class Readiness:
    """What /readyz said, asked again and again, each time on a new connection."""

    port: int
    seen: list[tuple[float, str, str]] = field(default_factory=list)
    """when, by the event loop's clock; which worker; its status"""

    async def watch(self) -> None:
        """Ask on, until nobody listens."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                connection = await Connection.open(self.port)
            except ConnectionRefusedError:
                return
            try:
                answer = (await connection.ask(message("GET", "/readyz"))).json()
            except ConnectionError:  # the worker was killed, or the port closed
                continue
            finally:
                connection.close()
            self.seen.append((clock(), answer["worker"], answer["status"]))

    async def stranger(self, known: Collection[str], since: float) -> float:
        """When a worker that was not known first answered, once one has. TimeoutError where none comes."""
        async with asyncio.timeout(COMES_BACK_S):
            while True:
                for at, worker, _ in self.seen:
                    if at > since and worker not in known:
                        return at
                await asyncio.sleep(LOOK_S)

    def unready(self) -> list[float]:
        """Every time that a worker was not ready."""
        return [at for at, _, status in self.seen if status != "ready"]


async def kill(service: Service, sent: Sequence[bytes], options: argparse.Namespace) -> None:
    """Kill workers under load, and print what that did."""
    clock, over = asyncio.get_running_loop().time, asyncio.Event()
    readiness = Readiness(service.port)
    killed: list[str] = []
    back_s: list[float] = []
    async with Pool(service.port, greets=True) as pool, asyncio.TaskGroup() as group:
        watching = group.create_task(readiness.watch())
        await pool.open(CONNECTIONS)
        load = group.create_task(poisson(pool, sent, options.rate, float("inf"), over=over))
        for _ in range(options.kills):
            await asyncio.sleep(options.pause)
            alive = {status.worker: status for status in service.live()}
            victim = min(alive.values(), key=lambda status: status.started)
            killed.append(victim.worker)
            died = clock()
            os.kill(victim.pid, signal.SIGKILL)
            back_s.append(await readiness.stranger(alive.keys(), died) - died)
            await pool.open(CONNECTIONS)  # in place of those that died
        await asyncio.sleep(options.pause)
        over.set()
        outcomes = await load
        watching.cancel()
    print(f"\nSIGKILL of {options.kills} workers: {report(outcomes)}")
    failed = [outcome.worker for outcome in outcomes if outcome.kind != "ok"]
    inside, unknown = sum(worker in killed for worker in failed), failed.count(None)
    others = len(failed) - inside - unknown
    print(f"failed: {inside} in killed workers, {others} in others, {unknown} before a worker was known")
    print(f"the next worker answered after {', '.join(f'{s:.2f}' for s in back_s)} s")
    print(f"asked {len(readiness.seen)} times, a worker was not ready {len(readiness.unready())} times")


async def end(service: Service, sent: Sequence[bytes], options: argparse.Namespace) -> None:
    """Tell the service to end under load, and print what that did."""
    clock, over = asyncio.get_running_loop().time, asyncio.Event()
    readiness = Readiness(service.port)
    async with Pool(service.port) as pool, asyncio.TaskGroup() as group:
        await pool.open(CONNECTIONS)
        load = group.create_task(poisson(pool, sent, options.rate, float("inf"), over=over))
        watching = group.create_task(readiness.watch())
        await asyncio.sleep(options.pause)
        told = clock()
        service.process.send_signal(signal.SIGTERM)
        await watching
        closed = clock()
        over.set()
        code = await asyncio.to_thread(service.process.wait)
        ended = clock()
        outcomes = await load
    print(f"\nSIGTERM of the service: {report(outcomes)}")
    unready = min(readiness.unready(), default=closed)
    after = sum(outcome.kind == "ok" and outcome.sent > unready for outcome in outcomes)
    none = sum(outcome.kind in NO_WORKER for outcome in outcomes)
    lost = sum(outcome.kind != "ok" for outcome in outcomes) - none
    print(
        f"unready after {unready - told:.2f} s, port closed after {closed - told:.2f} s, ended after "
        f"{ended - told:.2f} s with exit code {code}\n"
        f"answered once unready: {after}; came as or after the port closed: {none}; lost: {lost}"
    )


if __name__ == "__main__":
    main()
