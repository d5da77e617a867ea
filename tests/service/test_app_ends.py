"""How a worker starts beside others, and how it ends while it loads."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.bundle import deployment, store
from service.bundle.deployment import DeployedRanker, WorkerStatus
from service.errors import NotReady
from tests.service.toy import Toy, bundle, toy

ROOT = Path(__file__).parents[2]


def report_neighbour(models: Path, **rankers: str) -> None:
    """Another worker of this host that serves these."""
    now = time.time()
    status = WorkerStatus(
        worker="neighbour", pid=os.getpid(), host=deployment.this_host(), started=now, heartbeat=now,
        generation=1, rankers=rankers,
    )  # fmt: skip
    deployment.report(models, status)


@pytest.mark.parametrize("problem", ["deployment", "version"])
async def test_a_worker_does_not_start_empty_beside_one_that_serves(tmp_path: Path, problem: str) -> None:
    """They share a socket: it would refuse what the other can answer. It fails, and leaves no trace."""
    store.write(tmp_path, "broken", partial(bundle, "broken"))
    ranker = DeployedRanker(version="broken")
    deployment.update(tmp_path, lambda present: present.having("default", ranker))
    if problem == "deployment":
        (tmp_path / "deployment.json").write_text("{")
    report_neighbour(tmp_path, default="v1")
    service = Toy(tmp_path)
    with pytest.raises(NotReady, match="another worker serves default, and this one cannot: "):
        async with service.app.router.lifespan_context(service.app):
            raise AssertionError("it started")
    assert [status.worker for status in deployment.workers(tmp_path)] == ["neighbour"]
    service.executor.shutdown()


async def test_a_worker_starts_empty_where_nobody_does_better(tmp_path: Path) -> None:
    """A neighbour that serves nothing, or as much, keeps nobody from starting."""
    (tmp_path / "models").mkdir()
    report_neighbour(tmp_path / "models")
    async with toy(tmp_path / "models", deployed="broken") as service:
        assert (await service.client.get("/readyz")).status_code == 503
    report_neighbour(tmp_path / "models", default="broken")
    ranker = DeployedRanker(version="up")
    deployment.update(tmp_path / "models", lambda present: present.having("default", ranker))
    again = Toy(tmp_path / "models")
    async with again.app.router.lifespan_context(again.app), again.client:
        assert (await again.client.get("/readyz")).status_code == 200
    again.executor.shutdown()


WORKER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from service.app import create_app
from service.settings import Settings
from service.supervisor import listen
from service.tally import Tally, make
from service.worker import run_worker
from tests.service.toy import ToyModel

def load(version):
    if version == "down":
        print("loading", flush=True)
        time.sleep(60)
    return ToyModel(version, ThreadPoolExecutor(1))

app = create_app(Settings(models=Path(sys.argv[1])), load)
sock = listen("127.0.0.1", 0)
print(sock.getsockname()[1], flush=True)
run_worker(app, sock, tally=Tally(make(1)), index=0, drain_grace_s=0, on_drain=app.state.serving.drain)
"""


def test_a_load_keeps_no_worker_from_ending(tmp_path: Path) -> None:
    """Told to stop while a version loads, it ends in order, with 0, and long before the load would."""
    for version in ("up", "down"):
        store.write(tmp_path, version, partial(bundle, version))
    ranker = DeployedRanker(version="up", staged="down")
    deployment.update(tmp_path, lambda present: present.having("default", ranker))
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        port = int(worker.stdout.readline())
        assert worker.stdout.readline() == "loading\n"
        # Until it has begun to answer a signal just ends it.
        assert httpx.get(f"http://127.0.0.1:{port}/livez", timeout=30).status_code == 200
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.communicate()
