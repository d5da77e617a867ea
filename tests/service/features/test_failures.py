"""What is said of a Redis that does not do what it is asked to."""

from __future__ import annotations

import socket
import ssl

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, MaxConnectionsError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from benchmarks.redis_server import RedisServer
from service.errors import StoreFailed
from service.features.failures import failure
from service.features.redis import RedisFeatureStore
from service.features.store import Row
from tests.service.features.stores import PATIENT


def lost(reason: OSError) -> RedisConnectionError:
    """A connection that failed for a reason, as the client raises it."""
    error = RedisConnectionError("connecting to redis.intern:6379")
    error.__cause__ = reason
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    """A certificate that nobody knows."""
    error = ssl.SSLCertVerificationError(1, "[SSL] at redis.intern")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "tls", "kind", "words"),
    [
        (AuthenticationError("No."), False, "refused", "the user or password of its URL"),
        (ResponseError("NOPERM no"), False, "refused", "refused the command: NOPERM no"),
        (MaxConnectionsError("x"), False, "busy", "all connections"),
        (RedisTimeout("x"), False, "timeout", "has not answered in time"),
        (RedisTimeout("x"), True, "timeout", "does its port speak TLS, as rediss:// needs"),
        (ValueError("x"), False, "protocol", "does the URL name one"),
        (lost(ConnectionRefusedError(111, "at 10.0.0.1")), False, "unreachable", "connection refused"),
        (lost(ConnectionResetError(104, "at 10.0.0.1")), False, "unreachable", "rediss:// is by TLS"),
        (lost(socket.gaierror(-2, "redis.intern")), False, "unreachable", "nobody knows its host"),
        (lost(untrusted()), True, "unreachable", "trusted, self-signed certificate; name one with ?ssl_ca"),
        (lost(ssl.SSLError(1, "x")), True, "unreachable", "cannot be reached by TLS"),
        (RedisConnectionError("at 10.0.0.1"), False, "unreachable", "cannot be reached"),
    ],
)
def test_the_fix_is_named_and_no_address(error: Exception, tls: bool, kind: str, words: str) -> None:
    """Callers of the service are told, too."""
    told = failure("redis", error, tls=tls)
    assert told.kind == kind
    assert words in str(told)
    assert "10.0.0.1" not in str(told)
    assert "intern" not in str(told)


async def test_a_wrong_password_is_a_refusal(redis: RedisServer) -> None:
    """Redis is there: to wait for it would not help."""
    async with Redis.from_url(redis.url) as client:
        await client.config_set("requirepass", "right")
    for url in (redis.url, redis.url.replace("//", "//:wrong@")):
        store = RedisFeatureStore(url, PATIENT)
        for call in (store.fetch([("item", "1")]), store.put({("item", "1"): Row(1, {})}), store.now_ms()):
            with pytest.raises(StoreFailed, match="refused the user or password") as refused:
                await call
            assert refused.value.kind == "refused"
            assert "wrong" not in str(refused.value)
        await store.close()
