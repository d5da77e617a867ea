"""Histograms that note what they observe, and count it later, many observations at once.

prometheus' own counts each by itself: the fifteen of a request took as long as it took to read its body. Its
counters can be raised by any number. So a histogram is kept as a counter here, with a label more, `le`: the
upper bound of a bucket, or `sum`. Counters of workers add up, and a histogram is made of the result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from threading import Lock

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

_BOUND, _SUM = "le", "sum"


class Histograms:
    """Those of one process.

    Args:
        registry: of the counters.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._names: set[str] = set()
        self._observed: list[Observed] = []
        self._settling = Lock()

    def make(self, bounds: Sequence[float], name: str, text: str, *labels: str) -> Callable[..., Observed]:
        """A histogram with buckets up to these bounds and beyond; called with values of its labels.

        They must have few values.
        """
        counter = Counter(name, text, (*labels, _BOUND), registry=self._registry)
        self._names.add(name)

        def child(*values: str) -> Observed:
            observed = Observed(counter, bounds, values)
            self._observed.append(observed)
            return observed

        return cache(child)

    def settle(self) -> None:
        """Count what was observed since the last time. Any thread may."""
        with self._settling:
            for observed in self._observed:
                observed.settle()

    def whole(self, metric: Metric) -> Metric:
        """The histogram that a counter was kept for, in any worker; another metric as it is."""
        return _whole(metric) if metric.name in self._names else metric


class Observed:
    """What a histogram observes with some values of its labels."""

    def __init__(self, counter: Counter, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self._bounds = bounds
        self._buckets = [counter.labels(*labels, bound) for bound in (*map(float, bounds), "+Inf")]
        self._sum = counter.labels(*labels, _SUM)
        self._values: list[float] = []
        self.observe = self._values.append

    def settle(self) -> None:
        """Count what was observed since the last time; one thread at a time."""
        values = self._values[:]
        if not values:
            return
        del self._values[: len(values)]  # but for what was observed in the meantime
        for bucket, count in Counts(bisect_left(self._bounds, value) for value in values).items():
            self._buckets[bucket].inc(count)
        self._sum.inc(sum(values))


def _whole(metric: Metric) -> Metric:
    names: tuple[str, ...] = ()
    children: dict[tuple[str, ...], dict[str, float]] = {}
    for sample in metric.samples:
        if sample.name.endswith("_total"):  # else it is when the counter began
            labels = dict(sample.labels)
            bound, names = labels.pop(_BOUND), tuple(labels)
            children.setdefault(tuple(labels.values()), {})[bound] = sample.value
    histogram = HistogramMetricFamily(metric.name, metric.documentation, labels=names)
    for values, counts in children.items():
        total = counts.pop(_SUM, 0.0)  # none yet, where another worker is about to make it
        bounds = sorted(counts, key=float)
        up_to = accumulate(counts[bound] for bound in bounds)
        histogram.add_metric(values, list(zip(bounds, up_to, strict=True)), total)
    return histogram
