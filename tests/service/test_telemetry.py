"""What is measured, and how workers share it."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from service.logs import JsonLines
from service.telemetry import Telemetry, _taken


def figures(telemetry: Telemetry) -> dict[str, float]:
    """Every sample by name and labels."""
    text = telemetry.exposition()[0].decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_requests_are_counted_by_route_and_outcome() -> None:
    """Success and each kind of failure apart; only success has a time, or refusals would look quick."""
    telemetry = Telemetry()
    telemetry.request("/v1/rank", "ok", 0.004)
    telemetry.request("/v1/rank", "ok", 0.004)
    telemetry.request("/v1/rank", "invalid", 0.001)
    found = figures(telemetry)
    assert found['rankserve_requests_total{outcome="ok",route="/v1/rank"}'] == 2
    assert found['rankserve_requests_total{outcome="invalid",route="/v1/rank"}'] == 1
    assert found['rankserve_request_seconds_count{route="/v1/rank"}'] == 2


def test_what_became_of_items_state_is_counted() -> None:
    """What is new of what each version has counted so far; one that comes back begins anew."""
    telemetry = Telemetry()
    for counts in (
        {"a": {"hit": 5, "miss": 1}},
        {"a": {"hit": 9, "miss": 1}, "b": {"hit": 2}},
        {"b": {"hit": 2}},
    ):
        telemetry.state(counts)
    telemetry.state({"a": {"hit": 1, "miss": 1}, "b": {"hit": 2}})
    found = figures(telemetry)
    assert found['rankserve_state_items_total{found="hit"}'] == 5 + 4 + 2 + 1
    assert found['rankserve_state_items_total{found="miss"}'] == 1 + 1


def test_a_slate_gives_its_stages_in_seconds() -> None:
    """A stage a histogram, with buckets that tell one millisecond from two."""
    telemetry = Telemetry()
    telemetry.slate(
        "feed",
        "v1",
        candidates=500,
        not_finite=2,
        defaults={"users": 0, "items": 7},
        timings_ms={"encode": 1.2},
    )
    found = figures(telemetry)
    assert found['rankserve_stage_seconds_bucket{le="0.001",stage="encode"}'] == 0
    assert found['rankserve_stage_seconds_bucket{le="0.0015",stage="encode"}'] == 1
    assert found['rankserve_defaults_total{table="items"}'] == 7
    assert 'rankserve_defaults_total{table="users"}' not in found
    assert found['rankserve_not_finite_total{version="v1"}'] == 2
    assert found['rankserve_candidates_sum{ranker="feed"}'] == 500


def test_a_request_is_in_flight_until_it_is_answered() -> None:
    """Also when it fails: the gauge goes back to 0."""
    telemetry = Telemetry()
    telemetry.arrived()
    assert figures(telemetry)["rankserve_in_flight"] == 1
    telemetry.request("/v1/rank", "internal", 0.001)
    assert figures(telemetry)["rankserve_in_flight"] == 0


def slate(telemetry: Telemetry, version: str) -> None:
    """A slate with a candidate that has no finite score."""
    telemetry.slate("feed", version, candidates=5, not_finite=1, defaults={}, timings_ms={})


def test_a_version_that_serves_no_more_is_no_label() -> None:
    """However often versions change: what they were labels of goes with them."""
    telemetry = Telemetry()
    for version in ("v1", "v2", "v3"):
        telemetry.serving({"feed": version}, "cpu")
        if version != "v2":
            slate(telemetry, version)
    found = figures(telemetry)
    assert [name for name in found if "version=" in name and "created" not in name] == [
        'rankserve_not_finite_total{version="v3"}',
        'rankserve_serving{provider="cpu",ranker="feed",version="v3"}',
    ]


def test_runs_tell_how_long_they_waited_and_whether_they_broke() -> None:
    """And what waits now, as of the last look."""
    telemetry = Telemetry()
    telemetry.batch(2, 10, 0.001, queue_s=0.02, failed=True)
    telemetry.batch(1, 5, 0.001, queue_s=0.01)
    telemetry.pending(7)
    found = figures(telemetry)
    assert found["rankserve_queue_seconds_sum"] == 0.03
    assert (found["rankserve_failed_runs_total"], found["rankserve_pending_rows"]) == (1, 7)


def test_loads_are_counted_by_how_they_end() -> None:
    """And so are rankers that do not serve as deployed."""
    telemetry = Telemetry()
    with telemetry.load():
        pass
    with pytest.raises(ZeroDivisionError), telemetry.load():
        _ = 1 // 0
    telemetry.not_as_deployed(1)
    found = figures(telemetry)
    assert found['rankserve_loads_total{outcome="ok"}'] == 1
    assert found['rankserve_loads_total{outcome="failed"}'] == 1
    assert found["rankserve_not_as_deployed"] == 1


def test_telemetries_share_nothing() -> None:
    """Two apps in one process count apart."""
    one, other = Telemetry(), Telemetry()
    one.batch(requests=1, rows=10, seconds=0.001)
    assert figures(one)["rankserve_batch_rows_count"] == 1
    assert figures(other)["rankserve_batch_rows_count"] == 0


WORKER = """
import sys
from pathlib import Path
from service.telemetry import Telemetry, _taken
telemetry = Telemetry(Path(sys.argv[1]))
telemetry.request("/v1/rank", "ok", 0.001)
telemetry.serving({"feed": "v0"}, "cpu")
telemetry.slate("feed", "v0", candidates=5, not_finite=1, defaults={}, timings_ms={})
telemetry.serving({"feed": "v1"}, "cpu")
telemetry.settle()
if sys.argv[2] == "show":
    print(telemetry.exposition()[0].decode())
"""


def test_a_scrape_of_one_worker_gives_the_sum_of_all(tmp_path: Path) -> None:
    """Counters of processes that share a folder add up, those of ended ones too; old versions are gone."""
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path)]
    subprocess.run([*run, "quiet"], env=env, check=True)
    shown = subprocess.run([*run, "show"], env=env, check=True, capture_output=True, text=True).stdout
    assert 'rankserve_requests_total{outcome="ok",route="/v1/rank"} 2.0' in shown
    assert 'rankserve_request_seconds_count{route="/v1/rank"} 2.0' in shown
    assert 'rankserve_request_seconds_bucket{le="0.001",route="/v1/rank"} 2.0' in shown
    assert 'rankserve_candidates_sum{ranker="feed"} 10.0' in shown
    assert 'rankserve_serving{provider="cpu",ranker="feed",version="v1"} 2.0' in shown
    assert 'version="v0"' not in shown


def test_a_log_line_is_one_json_object() -> None:
    """With its extra fields and its traceback, and without a line break."""
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        record = logging.getLogger("a").makeRecord(
            "a", logging.ERROR, "f", 1, "no %s", ("luck",), sys.exc_info(), extra={"request_id": "r"}
        )
    line = JsonLines().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["message"], read["level"], read["request_id"]) == ("no luck", "error", "r")
    assert "ValueError" in read["exception"]


def test_what_was_observed_does_not_wait_for_ever() -> None:
    """Though nobody asks for it, and nothing tells it to count."""
    telemetry = Telemetry()
    for _ in range(1_000):
        telemetry.arrived()
        telemetry.request("/v1/rank", "ok", 0.25)
    labels = {"route": "/v1/rank", "le": "sum"}
    assert telemetry._registry.get_sample_value("rankserve_request_seconds_total", labels) == 250.0


class Late(list[int]):
    """A list to which a last number comes while it is copied."""

    def __getitem__(self, key: Any) -> Any:
        copied = super().__getitem__(key)
        self.append(3)
        return copied


def test_what_is_noted_while_others_count_is_counted_next() -> None:
    """It is neither in what was taken, nor lost."""
    noted = Late([1, 2])
    assert _taken(noted) == [1, 2]
    assert list(noted) == [3]


class Overtaken(list[tuple[str, str, float]]):
    """Answers; while they are copied first, somebody else counts too, or waits for a turn."""

    def __init__(self, answers: Iterable[tuple[str, str, float]], count: Callable[[], object]) -> None:
        super().__init__(answers)
        self.others = [threading.Thread(target=count)]

    def __getitem__(self, key: Any) -> Any:
        copied = super().__getitem__(key)
        if self.others:
            other = self.others.pop()
            other.start()
            other.join(0.2)
        return copied


def test_requests_are_counted_once_whoever_counts() -> None:
    """Two scrapes, one in the midst of the other: no request is lost, and none counts twice."""
    telemetry = Telemetry()
    telemetry._answers = Overtaken([("/v1/rank", "ok", 0.001)] * 5, telemetry.settle)
    telemetry.settle()
    telemetry.settle()  # by now the other has had its turn, or has it before this one
    found = figures(telemetry)
    assert found['rankserve_requests_total{outcome="ok",route="/v1/rank"}'] == 5
    assert found['rankserve_request_seconds_count{route="/v1/rank"}'] == 5
