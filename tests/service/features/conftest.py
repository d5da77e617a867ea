"""A real Redis for the tests: skipped where there is none, unless REQUIRE_REDIS says that there must be."""

import os
from collections.abc import Iterator

import pytest

from benchmarks.redis_server import RedisServer, installed, redis_server


@pytest.fixture(scope="session")
def own_redis() -> Iterator[RedisServer]:
    """One for the whole run."""
    if not installed():
        if os.environ.get("REQUIRE_REDIS"):
            pytest.fail("REQUIRE_REDIS is set, and there is no redis-server; install one")
        pytest.skip("there is no redis-server")
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(own_redis: RedisServer) -> RedisServer:
    """A running Redis with nothing in it; a test may kill it."""
    own_redis.kill()
    own_redis.start()
    return own_redis
