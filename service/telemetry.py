"""What the service measures, in one object: the only owner of prometheus.

Callers say what happened in their own words (`slate`, `batch`, `lag`); names, labels and buckets are chosen
here. Labels take values from small known sets alone: never an id or a name that a caller made up.

Where workers share metrics through a folder, a scrape of any of them gives the sum of all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, multiprocess
from prometheus_client.exposition import choose_encoder

_SECONDS = tuple(
    ms / 1e3
    for ms in (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1_000, 5_000)
)
_ROWS = (1, 10, 20, 50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000)
_REQUESTS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)


class Telemetry:
    """Counts and times of one process.

    Args:
        folder: where the workers share their metrics, as prometheus_client's environment variable says it;
            None where there is one worker.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._registry = registry = CollectorRegistry()
        if folder is None:
            ProcessCollector(registry=registry)
        seconds = partial(Histogram, buckets=_SECONDS, registry=registry)
        rows = partial(Histogram, buckets=_ROWS, registry=registry)
        count = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")

        self._requests = count("rankserve_requests", "Requests by outcome.", ("route", "outcome"))
        self._request_seconds = seconds("rankserve_request_seconds", "Time to the whole answer.", ("route",))
        self._in_flight = gauge("rankserve_in_flight", "Requests being answered.")
        self._stages = seconds("rankserve_stage_seconds", "Time of a ranked request by stage.", ("stage",))
        self._candidates = rows("rankserve_candidates", "Candidates of a ranked request.", ("ranker",))
        self._defaults = count("rankserve_defaults", "Ids that came without any features.", ("table",))
        self._not_finite = count("rankserve_not_finite", "Candidates without a finite score.", ("version",))
        self._batch_rows = rows("rankserve_batch_rows", "Rows of a run.")
        self._batch_requests = rows("rankserve_batch_requests", "Requests of a run.", buckets=_REQUESTS)
        self._batch_seconds = seconds("rankserve_batch_seconds", "Time of a run.")
        self._lag = seconds("rankserve_loop_lag_seconds", "How late the event loop wakes.")
        self._serving = gauge(
            "rankserve_serving", "Workers that serve with a version.", ("ranker", "version", "provider")
        )
        self._served: set[tuple[str, str, str]] = set()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request in while it is answered."""
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()

    def request(self, route: str, outcome: str, seconds: float) -> None:
        """A request was answered, or left. `route` is a pattern; `outcome` is `ok` or the type of a fault."""
        self._requests.labels(route, outcome).inc()
        self._request_seconds.labels(route).observe(seconds)

    def slate(self, ranker: str, version: str, *, candidates: int, not_finite: int,
              defaults: Mapping[str, int], timings_ms: Mapping[str, float]) -> None:  # fmt: skip
        """A slate was ranked. `defaults`: table -> ids without features; `timings_ms`: by stage."""
        self._candidates.labels(ranker).observe(candidates)
        if not_finite:
            self._not_finite.labels(version).inc(not_finite)
        for table, count in defaults.items():
            if count:
                self._defaults.labels(table).inc(count)
        for stage, ms in timings_ms.items():
            self._stages.labels(stage).observe(ms / 1e3)

    def batch(self, requests: int, rows: int, seconds: float) -> None:
        """The engine ran once."""
        self._batch_requests.observe(requests)
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def lag(self, seconds: float) -> None:
        """The event loop woke so late."""
        self._lag.observe(seconds)

    def serving(self, versions: Mapping[str, str], provider: str) -> None:
        """The rankers serve with these versions now, and with no others."""
        now = {(ranker, version, provider) for ranker, version in versions.items()}
        # Set to 0 and not removed: workers that share their figures cannot take a label back.
        for gone in self._served - now:
            self._serving.labels(*gone).set(0)
        for labels in now:
            self._serving.labels(*labels).set(1)
        self._served |= now

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All figures, and their media type, in the format that a scraper's Accept header asks for.

        Reads files where workers share metrics: call it off the event loop.
        """
        registry = self._registry
        if self._folder is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type


def forget_worker(pid: int, folder: str) -> None:
    """Drop the gauges of a worker that died from the shared folder; what it counted stays."""
    multiprocess.mark_process_dead(pid, path=folder)  # type: ignore[no-untyped-call]


class Stopwatch:
    """Milliseconds of stages that follow each other."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage now; the next one begins."""
        now = time.perf_counter()
        self.stages[stage] = (now - self._last) * 1e3
        self._last = now

    @property
    def total(self) -> float:
        """Milliseconds since the beginning."""
        return (time.perf_counter() - self._start) * 1e3
