"""Histograms that count later what they observe now."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

from service.histograms import Histograms

BOUNDS = (0.5, 1, 20)
VALUES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 20.0, 21.0, math.inf]), max_size=20)


def figures(metrics: Iterable[Metric]) -> dict[tuple[str, str, str], float]:
    """Every sample by name, bound and the one other label."""
    return {
        (sample.name, sample.labels.get("le", ""), sample.labels.get("stage", "")): sample.value
        for metric in metrics
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@given(VALUES, VALUES)
def test_what_is_seen_is_what_prometheus_would_show(first: list[float], later: list[float]) -> None:
    """Name by name, bound by bound; whenever it was counted, with labels and without."""
    registry, reference = CollectorRegistry(), CollectorRegistry()
    histograms = Histograms(registry)
    ours = histograms.make(BOUNDS, "seconds", "Time.", "stage"), histograms.make(BOUNDS, "rows", "Rows.")
    theirs = (
        Histogram("seconds", "Time.", ("stage",), buckets=BOUNDS, registry=reference),
        Histogram("rows", "Rows.", buckets=BOUNDS, registry=reference),
    )
    for values in (first, later):
        for value in values:
            for mine, other in ((ours[0]("a"), theirs[0].labels("a")), (ours[1](), theirs[1])):
                mine.observe(value)
                other.observe(value)
        ours[0]("b"), theirs[0].labels("b"), ours[1]()
        histograms.settle()
    found, expected = figures(map(histograms.whole, registry.collect())), figures(reference.collect())
    assert found == pytest.approx(expected)


def test_nothing_is_counted_before_it_is_told_to() -> None:
    """And once only after that."""
    registry = CollectorRegistry()
    histograms = Histograms(registry)
    histograms.make(BOUNDS, "rows", "Rows.")().observe(7)
    for expected in (0, 1, 1):
        assert figures(map(histograms.whole, registry.collect()))["rows_count", "", ""] == expected
        histograms.settle()


def test_one_that_another_worker_is_about_to_make() -> None:
    """A scrape may find buckets without their sum; it shows what there is."""
    others, mine = CollectorRegistry(), Histograms(CollectorRegistry())
    Counter("rows", "Rows.", ("le",), registry=others).labels(20.0).inc(2)
    mine.make(BOUNDS, "rows", "Rows.")
    assert figures(map(mine.whole, others.collect()))["rows_count", "", ""] == 2


def test_it_is_a_histogram_before_it_has_observed_anything() -> None:
    """A scraper that saw a counter at first would have two kinds by one name."""
    registry = CollectorRegistry()
    histograms = Histograms(registry)
    histograms.make(BOUNDS, "seconds", "Time.", "stage")
    assert [(each.name, each.type) for each in map(histograms.whole, registry.collect())] == [
        ("seconds", "histogram")
    ]


def test_any_other_metric_is_left_as_it_is() -> None:
    """Also one with bounds, if it was not made here."""
    registry = CollectorRegistry()
    Counter("runs", "Runs.", ("le",), registry=registry).labels(20.0).inc(3)
    (metric,) = registry.collect()
    assert Histograms(CollectorRegistry()).whole(metric) is metric
