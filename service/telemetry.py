"""What the service measures, in one object: the only owner of prometheus.

Callers say what happened in their own words (`slate`, `batch`, `lag`); names, labels and buckets are chosen
here. Labels take values from small known sets alone: never an id or a name that a caller made up.

Where workers share metrics through a folder, a scrape of any of them gives the sum of all.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, multiprocess
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from service.histograms import Histograms

T = TypeVar("T")

_SECONDS = tuple(
    ms / 1e3
    for ms in (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1_000, 5_000)
)
_ROWS = (1, 10, 20, 50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000)
_REQUESTS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)

_MOST_REQUESTS = 1_000
"""whose times wait to be counted"""


class Telemetry:
    """Counts and times of one process.

    Args:
        folder: where the workers share their metrics, as prometheus_client's environment variable says it;
            None where there is one worker.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Reason: every metric with its name, its words and its buckets, in one place."""
        self._folder = folder
        self._registry = registry = CollectorRegistry()
        if folder is None:
            ProcessCollector(registry=registry)
        self._histograms = Histograms(registry)
        self._answers: list[tuple[str, str, float]] = []
        self._timings: list[Mapping[str, float]] = []
        self._settling = Lock()
        seconds, rows, few = (
            partial(self._histograms.make, bounds) for bounds in (_SECONDS, _ROWS, _REQUESTS)
        )
        count = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")

        self._requests = _by(count, "rankserve_requests", "Requests by outcome.", "route", "outcome")
        self._request_seconds = seconds(
            "rankserve_request_seconds", "Time to the whole answer of requests that are ok.", "route"
        )
        self._in_flight = gauge("rankserve_in_flight", "Requests being answered.")
        self._answering = 0  # the gauge, between two looks: setting it costs more than to count
        self._stages = seconds("rankserve_stage_seconds", "Time of a ranked request by stage.", "stage")
        self._candidates = rows("rankserve_candidates", "Candidates of a ranked request.", "ranker")
        self._defaults = _by(count, "rankserve_defaults", "Ids that came without any features.", "table")
        self._degraded = _by(count, "rankserve_degraded", "Requests that did without a store.", "store")
        self._fetch_seconds = seconds("rankserve_fetch_seconds", "Time of a read of the feature store.")()
        self._near = _by(count, "rankserve_near_rows", "Rows looked up in the near cache.", "found")
        self._store_failures = _by(
            count, "rankserve_store_failures", "What went wrong with the feature store.", "store", "kind"
        )
        self._store_open = gauge("rankserve_store_open", "Workers that do not ask the store, as it fails.")
        self._not_finite = count("rankserve_not_finite", "Candidates without a finite score.", ("version",))
        self._batch_rows = rows("rankserve_batch_rows", "Rows of a batch.")()
        self._batch_requests = few("rankserve_batch_requests", "Requests of a batch.")()
        self._batch_seconds = seconds("rankserve_batch_seconds", "Time of a batch.")()
        self._queue_seconds = seconds("rankserve_queue_seconds", "Wait of a batch's oldest request.")()
        self._failed_runs = count("rankserve_failed_runs", "Batches that broke.")
        self._connections = gauge(
            "rankserve_connections", "Open connections of a worker.", multiprocess_mode="liveall"
        )
        self._pending_rows = gauge("rankserve_pending_rows", "Rows that wait for the engine.")
        self._state_items = _by(
            count, "rankserve_state_items", "Items of runs by what became of their state.", "found"
        )
        self._state_seen: Mapping[str, Mapping[str, int]] = {}
        self._lag = seconds("rankserve_loop_lag_seconds", "How late the event loop wakes.")()
        self._loads = _by(count, "rankserve_loads", "Versions loaded, by outcome.", "outcome")
        self._serving = gauge(
            "rankserve_serving", "Workers that serve with a version.", ("ranker", "version", "provider")
        )
        self._not_as_deployed = gauge("rankserve_not_as_deployed", "Rankers that do not serve as deployed.")
        self._served: set[tuple[str, str, str]] = set()

    def arrived(self) -> None:
        """A request has come. `request` is told of it when it was answered."""
        self._answering += 1

    def request(self, route: str, outcome: str, seconds: float) -> None:
        """A request was answered, or left. `route` is a pattern; `outcome` is `ok` or the type of a fault."""
        self._answering -= 1
        self._answers.append((route, outcome, seconds))
        if len(self._answers) >= _MOST_REQUESTS:
            self.settle()

    def slate(self, ranker: str, version: str, *, candidates: int, not_finite: int,
              defaults: Mapping[str, int], timings_ms: Mapping[str, float],
              degraded: Iterable[str] = ()) -> None:  # fmt: skip
        """A slate was ranked. `defaults`: table -> ids without features; `degraded`: stores that failed."""
        self._candidates(ranker).observe(candidates)
        if not_finite:
            self._not_finite.labels(version).inc(not_finite)
        for table, count in defaults.items():
            if count:
                self._defaults(table).inc(count)
        for store in degraded:
            self._degraded(store).inc()
        self._timings.append(timings_ms)

    def batch(
        self, requests: int, rows: int, seconds: float, *, queue_s: float = 0.0, failed: bool = False
    ) -> None:
        """The engine ran once; `queue_s` is how long the oldest request had waited."""
        self._queue_seconds.observe(queue_s)
        if failed:
            self._failed_runs.inc()
        self._batch_requests.observe(requests)
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def fetched(self, seconds: float) -> None:
        """The feature store answered a read."""
        self._fetch_seconds.observe(seconds)

    def near(self, hits: int, misses: int) -> None:
        """A request found so many rows near, and so many not."""
        self._near("yes").inc(hits)
        if misses:
            self._near("no").inc(misses)

    def store_failed(self, store: str, kind: str, times: int = 1) -> None:
        """Something went wrong with the feature store; `kind` is one of a few words."""
        if times:
            self._store_failures(store, kind).inc(times)

    def store_state(self, state: str) -> None:
        """The feature store is in this state now: `ok`, `failing` or `unknown`."""
        self._store_open.set(state == "failing")

    def lag(self, seconds: float) -> None:
        """The event loop woke so late. To be told now and then: what was observed is counted, too."""
        self._lag.observe(seconds)
        self.settle()

    def settle(self) -> None:
        """Count what was observed: to be done at the end, and done by the way before that. Any thread may.

        What cannot be counted, as on a full disk, is not tried again.
        """
        self._in_flight.set(self._answering)
        with self._settling:
            answers, timings = _taken(self._answers), _taken(self._timings)
        for (route, outcome), count in Counts((route, outcome) for route, outcome, _ in answers).items():
            self._requests(route, outcome).inc(count)
        for route, outcome, seconds in answers:
            if outcome == "ok":  # else a quick refusal would look like a quick answer
                self._request_seconds(route).observe(seconds)
        for stage, ms in chain.from_iterable(of_slate.items() for of_slate in timings):
            self._stages(stage).observe(ms / 1e3)
        self._histograms.settle()

    def connections(self, count: int) -> None:
        """This worker has so many open connections now."""
        self._connections.set(count)

    def pending(self, rows: int) -> None:
        """So many rows wait for the engine now."""
        self._pending_rows.set(rows)

    def state(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """By version and what became of items' state, so many items so far; of versions in memory alone."""
        for version, items in counts.items():
            seen = self._state_seen.get(version, {})
            for found, count in items.items():
                if (more := count - seen.get(found, 0)) > 0:
                    self._state_items(found).inc(more)
        self._state_seen = counts

    def not_as_deployed(self, rankers: int) -> None:
        """So many rankers do not serve as deployed now."""
        self._not_as_deployed.set(rankers)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Count a version that is loaded within."""
        try:
            yield
        except BaseException:
            self._loads("failed").inc()
            raise
        self._loads("ok").inc()

    def serving(self, versions: Mapping[str, str], provider: str) -> None:
        """The rankers serve with these versions now, and with no others: what these were labels of goes."""
        now = {(ranker, version, provider) for ranker, version in versions.items()}
        for labels in now:
            self._serving.labels(*labels).set(1)
        for gone in self._served - now:
            self._serving.labels(*gone).set(0)
            if self._folder is None:  # a shared file gives no label back: `_Shared` leaves it out
                self._serving.remove(*gone)
        if self._folder is None:
            for version in {version for _, version, _ in self._served} - set(versions.values()):
                self._not_finite.remove(version)
        self._served = now

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All figures, and their media type, in the format that a scraper's Accept header asks for.

        Reads files where workers share metrics: call it off the event loop.
        """
        self.settle()
        registry = CollectorRegistry()
        registry.register(_Figures(self._registry, self._folder, self._histograms.whole))
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type


def _by(make: Callable[..., Counter], name: str, text: str, *labels: str) -> Callable[..., Counter]:
    """A metric's child by its labels, which must have few values: looking one up costs more than to count."""
    return cache(make(name, text, labels).labels)


def _taken(noted: list[T]) -> list[T]:
    """All that was noted by now, which is so no more."""
    taken = noted[:]
    del noted[: len(taken)]  # but for what was noted in the meantime
    return taken


class _Figures:
    """The figures of all workers, but for those of versions that none of them serves with any more."""

    def __init__(
        self, own: CollectorRegistry, folder: Path | None, whole: Callable[[Metric], Metric]
    ) -> None:
        self._own, self._folder, self._whole = own, folder, whole

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus."""
        metrics = list(self._own.collect() if self._folder is None else _shared(self._folder))
        return map(self._whole, metrics)


def _shared(folder: Path) -> list[Metric]:
    collector = multiprocess.MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
    metrics: list[Metric] = list(collector.collect())  # type: ignore[no-untyped-call]
    served = {
        sample.labels["version"]
        for metric in metrics
        if metric.name == "rankserve_serving"
        for sample in metric.samples
        if sample.value
    }
    for metric in metrics:
        metric.samples = [
            sample
            for sample in metric.samples
            if sample.labels.get("version") in {None, *served}
            and (metric.name != "rankserve_serving" or sample.value)
        ]
    return metrics


def forget_worker(pid: int, folder: str) -> None:
    """Drop the gauges of a worker that died from the shared folder; what it counted stays."""
    multiprocess.mark_process_dead(pid, path=folder)  # type: ignore[no-untyped-call]
