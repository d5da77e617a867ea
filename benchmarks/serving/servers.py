"""The servers that are measured, ours and the peers', each a tree of processes that ends with its block."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.running import HOST, ROOT, serving
from benchmarks.serving.answers import bundle_of
from benchmarks.serving.peers.environments import PEERS, prepared
from benchmarks.serving.peers.scorer import FEATURES_FILE
from deploy.running import free_port

FLOAT32, INT8 = "rankserve", "rankserve int8"
OURS = {FLOAT32: "float32", INT8: "int8"}
"""our servers' names -> their precision"""
WORKERS = 2
START_LIMIT_S = 60.0
END_LIMIT_S = 20.0
ANSWER_LIMIT_S = 30.0
HEADERS = {"Content-Type": "application/json"}


class DidNotStart(Exception):
    """A server did not come to answer; with the end of its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    port: int
    pid: int
    """of the process whose children are all others"""

    def rank(self, body: bytes) -> bytes:
        """The answer to a request. httpx.HTTPError where there is none."""
        url = f"http://{HOST}:{self.port}/v1/rank"
        response = httpx.post(url, content=body, headers=HEADERS, timeout=ANSWER_LIMIT_S, trust_env=False)
        return response.raise_for_status().content

    def cpu_s(self) -> float:
        """Seconds of processor time that its processes have taken."""
        times = [process.cpu_times() for process in tree(self.pid)]
        return float(sum(each.user + each.system for each in times))

    def memory_mb(self) -> tuple[float, float]:
        """PSS, in which what processes share counts once, and USS, what ending them would free; in MB."""
        held = [process.memory_full_info() for process in tree(self.pid)]
        return sum(each.pss for each in held) / 1e6, sum(each.uss for each in held) / 1e6


@dataclass(frozen=True, slots=True)
class Server:
    """A server to measure.

    Attributes:
        name: ``rankserve``, or a peer's; ``+`` gathers batches, ``split`` runs the project's own graphs,
            ``int8`` ranks in that.
        out: what the workload wrote.
        envs: folder of the peers' environments.
    """

    name: str
    out: Path
    envs: Path

    def running(self) -> AbstractContextManager[Running]:
        """Started, answering the first request of the workload, and ended with the block.

        Raises:
            DidNotStart: it ended or did not answer.
            NotInstalled: its environment cannot be made.
        """
        return self._ours() if self.name in OURS else self._peer()

    @contextmanager
    def _ours(self) -> Iterator[Running]:
        with serving(self.out / "models", workers=WORKERS, precision=OURS[self.name]) as service:
            yield Running(service.port, service.process.pid)

    @contextmanager
    def _peer(self) -> Iterator[Running]:
        name, _, graph = self.name.partition(" ")
        batching, peer = name.endswith("+"), PEERS[name.rstrip("+")]
        bin_ = prepared(self.envs, name.rstrip("+"), peer.packages).resolve()
        port = free_port()
        settings = {
            "BENCH_BUNDLE": str(bundle_of(self.out).resolve()),
            "BENCH_FEATURES": str((self.out / FEATURES_FILE).resolve()),
            "BENCH_GRAPH": graph or "flat",
            "BENCH_BATCHING": str(int(batching)),
            "BENCH_WORKERS": str(WORKERS),
            "OMP_NUM_THREADS": "1",
            **dict(peer.settings),
        }
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            with process(peer.command(bin_, port, batching), settings, log) as started:
                running = Running(port, started.pid)
                _wait(started, running, first_request(self.out), log)
                yield running


def names(peers: Sequence[str], int8: bool) -> list[str]:
    """Of the servers: ours, in int8 too where the bundle has it; every peer's without and with batches."""
    modes = [[name, f"{name}+"] if PEERS[name].batches else [name] for name in peers]
    return [FLOAT32, *([INT8] if int8 else []), *(name for both in modes for name in both)]


def first_request(out: Path) -> bytes:
    """A request of the workload."""
    script = min((out / "wrk").glob("rank-*.jsonl"))
    return script.read_bytes().splitlines()[0]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that come from it."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


@contextmanager
def process(
    command: Sequence[str], settings: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the repository's folder; it and all it started end with the block."""
    with log.open("wb") as written:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            process_group=0,
        )
    try:
        yield started
    finally:
        _end(started)


def _end(started: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the first, then SIGKILL to all that is left of the tree."""
    processes = tree(started.pid)
    started.terminate()
    _, alive = psutil.wait_procs(processes, timeout=END_LIMIT_S)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=END_LIMIT_S)
    started.wait(END_LIMIT_S)


def _wait(started: subprocess.Popen[bytes], running: Running, body: bytes, log: Path) -> None:
    """Until it answers a request."""
    deadline = time.monotonic() + START_LIMIT_S
    while started.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            running.rank(body)
            return
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise DidNotStart(f"no answer after {START_LIMIT_S:g} s, or it ended with {started.poll()}\n{tail}")
