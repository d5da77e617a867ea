"""Rows in Redis: packed strings, read by one MGET; the only owner of the client library.

A row is written by a script that leaves a later one alone and publishes what has changed. Reads have
a timeout in milliseconds, no retries and a breaker: whoever asks does without, and soon. Writes, which
operators make, have longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MaxConnectionsError, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from service.errors import InvalidRequest, StoreFailed
from service.features import notices
from service.features.breaker import Breaker
from service.features.failures import failure
from service.features.faults import Faults
from service.features.packed import MAGIC, CorruptRow, RowTooLarge, pack, unpack
from service.features.store import Changed, Hears, Row, RowKey, State

WRITE_TIMEOUT_S = 5.0
WRITE_CONNECTIONS = 8
UNPACKED_AT_ONCE = 200
"""Rows that are unpacked before others get their turn: some milliseconds."""
LISTEN_S = 0.4
"""Silence after which a subscription is asked whether it lives; as long again, and it is given up."""
FIRST_DELAY_S, MOST_DELAY_S = 0.05, 0.5
"""Before a lost subscription is made again: doubled each time."""

# KEYS: of the rows. ARGV: the magic number, the channel, the notice of the keys, the one that brings the rows
# and is published where all of them are written, then a packed row for each key.
_PUT = """
local written = 0
for i, key in ipairs(KEYS) do
  local row, held = ARGV[i + 4], redis.pcall('GETRANGE', key, 0, 11)
  local later = type(held) == 'string' and #held == 12 and string.sub(held, 1, 4) == ARGV[1]
    and struct.unpack('>I8', string.sub(held, 5)) > struct.unpack('>I8', string.sub(row, 5, 12))
  if not later then
    redis.call('SET', key, row)
    written = written + 1
  end
end
if written > 0 then
  redis.call('PUBLISH', ARGV[2], written == #KEYS and ARGV[4] or ARGV[3])
end
return written
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """How to talk to Redis.

    Attributes:
        prefix: of every key, and of the channel of changes, which is one for each database.
        timeout_s: of a read.
        connect_timeout_s: of a new connection.
        connections: most that read at a time; a read beyond them fails at once.
    """

    prefix: str = "rankserve:"
    timeout_s: float = 0.05
    connect_timeout_s: float = 0.25
    connections: int = 32


class RedisFeatureStore:
    """Rows in one Redis, or in what speaks its protocol; not in a cluster, whose keys lie apart.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with user and password where they are needed.
        options: how to talk to it.
        breaker: of reads.

    Raises:
        ValueError: the URL is none of Redis.
    """

    name: str = "redis"

    def __init__(self, url: str, options: RedisOptions | None = None, breaker: Breaker | None = None) -> None:
        self._options = options or RedisOptions()
        self._breaker = breaker or Breaker()
        self._faults = Faults(self.name)
        self._tls = url.startswith("rediss:")
        self._answered = False
        self._reads = self._client(url, self._options.timeout_s, self._options.connections)
        self._writes = self._client(url, WRITE_TIMEOUT_S, WRITE_CONNECTIONS)
        self._notices = self._client(url, WRITE_TIMEOUT_S, WRITE_CONNECTIONS)
        # Channels are those of all databases, and a notice brings rows of one.
        database = self._notices.connection_pool.connection_kwargs.get("db") or 0
        self._channel = f"{self._options.prefix}changes:{database}"

    @property
    def state(self) -> State:
        """Failing while the breaker is not closed; unknown until Redis first answers, or once it has gone."""
        if self._breaker.state != "closed":
            return "failing"
        return "ok" if self._answered else "unknown"

    @property
    def empty(self) -> bool:
        """Others may write at any time."""
        return False

    async def fetch(self, keys: Sequence[RowKey]) -> Mapping[RowKey, Row | None]:
        """The rows that there are, by one MGET; None where what is stored is no row.

        Raises:
            StoreFailed: Redis does not answer, did not lately, or all connections are busy.
        """
        if (call := self._breaker.admits()) is None:
            raise StoreFailed(self.name, "open", "has not answered lately, and is tried again every second")
        try:
            values = _replies(await self._reads.mget(list(map(self.key, keys))), len(keys))
        except (RedisError, OSError, ValueError) as error:
            if not isinstance(error, MaxConnectionsError):  # which says nothing of Redis
                self._note_failure(call, error)
            raise self._failure(error) from error
        if self._breaker.state != "closed":
            _log.warning("redis answers again")
        self._breaker.succeeded()
        self._answered = True
        rows = {}
        for at, (key, value) in enumerate(zip(keys, values, strict=True), 1):
            if value is not None:
                rows[key] = self._row(key, value)
            if at % UNPACKED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return rows

    async def put(self, rows: Mapping[RowKey, Row]) -> int:
        """Write rows whole, unless a later one is there, and publish a notice; how many were written.

        Raises:
            InvalidRequest: a row takes more bytes than one may have; none was written.
            StoreFailed: Redis does not answer; all of them may have been written, or none.
        """
        names = [self.key(key) for key in rows]
        packed = [_packed(key, row) for key, row in rows.items()]
        told = (self._channel, *notices.pack(rows, sum(map(len, packed))))
        try:
            written = await self._writes.eval(_PUT, len(names), *names, MAGIC, *told, *packed)
        except (RedisError, OSError) as error:
            raise self._failure(error) from error
        return int(written)

    async def now_ms(self) -> int:
        """The time by the clock of Redis, in milliseconds since the epoch.

        Raises:
            StoreFailed: Redis does not answer.
        """
        try:
            seconds, microseconds = await self._writes.time()
        except (RedisError, OSError, ValueError) as error:
            raise self._failure(error) from error
        return int(seconds * 1_000 + microseconds // 1_000)

    async def follow(self, changed: Changed, hears: Hears) -> None:
        """Tell of changes, whoever makes them, until cancelled; and whether it hears of them."""
        delay_s, task = FIRST_DELAY_S, asyncio.current_task()
        assert task is not None

        def begun() -> None:
            nonlocal delay_s
            delay_s, self._answered = FIRST_DELAY_S, True
            self._breaker.answers()
            hears(True)

        # Asked, as the client waits with `asyncio.wait_for`, which in Python 3.11 may swallow a cancellation.
        while not task.cancelling():
            try:
                await self._listen(changed, begun, task)
            except Exception as error:  # without notices rows would be stale, and nobody would know why
                if delay_s == FIRST_DELAY_S:
                    _log.error("redis: no notice of changes: %r; subscribing again", error)
            self._answered = False
            hears(False)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, MOST_DELAY_S)

    async def close(self) -> None:
        """Close all connections."""
        await self._reads.aclose()
        await self._writes.aclose()
        await self._notices.aclose()

    def key(self, key: RowKey) -> str:
        """The name of a row in Redis: the prefix, then table and key, colons between their parts.

        A colon within a part is written ``%3A``, and a percent sign ``%25``: no two keys have one name.
        """
        joined = ":".join(key)
        if "%" not in joined and joined.count(":") == len(key) - 1:  # as most are
            return self._options.prefix + joined
        parts = [part.replace("%", "%25").replace(":", "%3A") for part in key]
        return self._options.prefix + ":".join(parts)

    async def _listen(self, changed: Changed, begun: Callable[[], None], task: asyncio.Task[None]) -> None:
        """One subscription, until it is lost or the task is cancelled."""
        subscription = self._notices.pubsub()
        try:
            await subscription.subscribe(self._channel)
            while not task.cancelling():
                message = await _next(subscription)
                if message["type"] == "subscribe":
                    begun()
                elif message["type"] == "message":
                    _tell(message["data"], changed)
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]

    def _client(self, url: str, timeout_s: float, connections: int) -> Redis:
        return Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=self._options.connect_timeout_s,
            max_connections=connections,
            retry=Retry(NoBackoff(), 0),
            # On a new connection nothing is said but what the URL asks for: a request may wait for it.
            protocol=2,
            driver_info=None,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )

    def _note_failure(self, call: int, error: Exception) -> None:
        before = self._breaker.state
        self._breaker.failed(call)
        if before == "closed" and self._breaker.state == "open":
            _log.warning("%s; answers are degraded until it is back", self._failure(error))

    def _failure(self, error: Exception) -> StoreFailed:
        return failure(self.name, error, tls=self._tls)

    def _row(self, key: RowKey, value: bytes) -> Row | None:
        try:
            return unpack(value)
        except CorruptRow as error:
            self._faults.tell(key, str(error))
            return None


def _replies(values: object, n: int) -> list[bytes | None]:
    """What an MGET of ``n`` keys answered. Raises ValueError where it cannot be that."""
    if not isinstance(values, list) or len(values) != n or not set(map(type, values)) <= {bytes, NoneType}:
        raise ValueError("redis: the answer is not a string a key")
    return values


def _packed(key: RowKey, row: Row) -> bytes:
    try:
        return pack(row)
    except RowTooLarge as error:
        raise InvalidRequest(".".join(key), str(error)) from None


async def _next(subscription: PubSub) -> Mapping[str, Any]:
    """The next message. TimeoutError where the other side has gone silently."""
    message: Mapping[str, Any] | None = await subscription.get_message(timeout=LISTEN_S)
    if message is None:
        await subscription.ping()
        message = await subscription.get_message(timeout=LISTEN_S)
    if message is None:
        raise TimeoutError("the subscription has died")
    return message


def _tell(notice: bytes, changed: Changed) -> None:
    try:
        keys, rows = notices.unpack(notice)
    except (ValueError, TypeError):
        _log.warning("redis: a notice of changes cannot be read; every row is asked for again")
        changed(None, {})
    else:
        changed(keys, rows)
