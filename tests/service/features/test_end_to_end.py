"""`rankserve serve --redis`: two workers and a real Redis, over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from redis import Redis
from typer.testing import CliRunner

from benchmarks.load import Connection, message
from benchmarks.redis_server import RedisServer, redis_server
from benchmarks.running import Service, deployed, serving
from service.cli import cli
from tests.tiny import Tiny, write_tiny

TOKEN = "s3cret"
LIMIT_S = 60.0
USER: dict[str, Any] = {"user_id": "3", "context": {"tab": "feed", "hour": 20}}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The version v1."""
    return write_tiny(tmp_path_factory.mktemp("bundles"), "v1")


@pytest.fixture(scope="module")
def own_server(own_redis: RedisServer) -> Iterator[RedisServer]:
    """A Redis of this module's alone; skipped where `own_redis` is."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
def service(tiny: Tiny, own_server: RedisServer) -> Iterator[Service]:
    """Two workers that hear of changes, and of nothing else for an hour; the version's rows are in Redis."""
    models = tiny.folder.parent
    loaded = CliRunner().invoke(
        cli,
        ["features", "load", "v1", "--redis", own_server.url, "--models", str(models)],
        env={"RANKSERVE_REDIS_CONNECT_TIMEOUT_MS": "10000"},
    )
    assert loaded.exit_code == 0, loaded.output
    settings: dict[str, Any] = {
        "provider": "cpu",
        "token": TOKEN,
        "deadline_ms": 10_000,
        "features_timeout_ms": 1_000,
        "redis_connect_timeout_ms": 1_000,
        "features_ttl_s": 3_600,
        "redis": own_server.url,
    }
    with deployed(models, ["v1"]) as folder, serving(folder, workers=2, **settings) as running:
        yield running


class Workers:
    """A connection to each worker."""

    def __init__(self, connections: dict[str, Connection]) -> None:
        self._connections = connections

    @staticmethod
    async def reach(service: Service) -> "Workers":
        """Connect until every worker has one."""
        found: dict[str, Connection] = {}
        async with asyncio.timeout(LIMIT_S):
            while len(found) < service.workers:
                connection = await Connection.open(service.port)
                worker = await connection.ask_worker()
                if found.setdefault(worker, connection) is not connection:
                    connection.close()
        return Workers(found)

    async def rank(self, *candidates: str) -> list[dict[str, Any]]:
        """The answer of each."""
        asked = message("POST", "/v1/rank", {**USER, "candidates": candidates})
        answers = [await each.ask(asked) for each in self._connections.values()]
        assert [answer.status for answer in answers] == [200] * len(answers)
        return [answer.json() for answer in answers]

    async def stores(self) -> list[dict[str, str]]:
        """What each says of its store; all are ready."""
        answers = [await each.ask(message("GET", "/readyz")) for each in self._connections.values()]
        assert [answer.status for answer in answers] == [200] * len(answers)
        return [answer.json()["store"] for answer in answers]

    def close(self) -> None:
        """Hang up."""
        for connection in self._connections.values():
            connection.close()


def scores(answer: dict[str, Any]) -> dict[str, float]:
    """By item."""
    return {item["id"]: item["score"] for item in answer["items"]}


async def put(service: Service, length: float) -> httpx.Response:
    """Write a row, through whichever worker."""
    rows = {"rows": [{"key": "7", "fields": {"length": length}}]}
    return await asyncio.to_thread(service.ask, "PUT", "/v1/features/item", rows, TOKEN)


@pytest.fixture
async def workers(service: Service) -> AsyncIterator[Workers]:
    """A connection to each."""
    found = await Workers.reach(service)
    yield found
    found.close()


async def test_a_row_reaches_every_worker(
    service: Service, own_server: RedisServer, workers: Workers
) -> None:
    """Whichever of them wrote it, though both had the old one near; what is near costs Redis nothing."""
    first, second = map(scores, await workers.rank("7", "8"))
    assert first == second
    with Redis.from_url(own_server.url) as client:
        reads = {"cmdstat_mget"}
        async with asyncio.timeout(LIMIT_S):
            while reads:  # again where a worker has just begun to hear of changes, and forgot all
                client.config_resetstat()
                for answer in await workers.rank("7", "8"):
                    assert (scores(answer), answer["degraded"]) == (first, [])
                    assert answer["timings_ms"]["fetch"] >= 0
                reads = {"cmdstat_mget"} & client.info("commandstats").keys()
    written = await put(service, 900.0)
    assert (written.status_code, written.json()["written"]) == (200, 1)
    async with asyncio.timeout(LIMIT_S):
        while any(scores(answer) == first for answer in await workers.rank("7", "8")):
            pass
    changed, other = map(scores, await workers.rank("7", "8"))
    assert changed == other
    assert changed["8"] == pytest.approx(first["8"])


async def test_redis_is_not_needed(service: Service, own_server: RedisServer, workers: Workers) -> None:
    """Without it the answers go on, marked, and every worker stays ready; with it back they are whole."""
    near = scores((await workers.rank("7", "8"))[0])
    own_server.kill()
    try:
        for answer in await workers.rank("7", "8", "near to nobody"):
            assert answer["degraded"] == ["redis"]
            assert scores(answer)["8"] == pytest.approx(near["8"])
        refused = await put(service, 5.0)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "store_failed")
        async with asyncio.timeout(LIMIT_S):
            while {store["state"] for store in await workers.stores()} != {"failing"}:
                await workers.rank("near to nobody")
    finally:
        own_server.start()
    async with asyncio.timeout(LIMIT_S):
        while any(answer["degraded"] for answer in await workers.rank("near to nobody")):
            pass
        while {store["state"] for store in await workers.stores()} != {"ok"}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    metrics = (await asyncio.to_thread(service.ask, "GET", "/metrics")).text
    assert 'rankserve_store_failures_total{kind="unreachable",store="redis"}' in metrics
    assert 'rankserve_degraded_total{store="redis"}' in metrics
