"""What is measured, and how workers share it."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from service.logs import JsonLines
from service.telemetry import Stopwatch, Telemetry


def figures(telemetry: Telemetry) -> dict[str, float]:
    """Every sample by name and labels."""
    text = telemetry.exposition()[0].decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_requests_are_counted_by_route_and_outcome() -> None:
    """Success and each kind of failure apart."""
    telemetry = Telemetry()
    telemetry.request("/v1/rank", "ok", 0.004)
    telemetry.request("/v1/rank", "ok", 0.004)
    telemetry.request("/v1/rank", "invalid", 0.001)
    found = figures(telemetry)
    assert found['rankserve_requests_total{outcome="ok",route="/v1/rank"}'] == 2
    assert found['rankserve_requests_total{outcome="invalid",route="/v1/rank"}'] == 1
    assert found['rankserve_request_seconds_count{route="/v1/rank"}'] == 3


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
    with telemetry.in_flight():
        assert figures(telemetry)["rankserve_in_flight"] == 1
    assert figures(telemetry)["rankserve_in_flight"] == 0


def test_a_ranker_serves_with_one_version() -> None:
    """The version that it left shows 0."""
    telemetry = Telemetry()
    telemetry.serving({"feed": "v1"}, "cpu")
    telemetry.serving({"feed": "v2"}, "cpu")
    found = figures(telemetry)
    assert found['rankserve_serving{provider="cpu",ranker="feed",version="v1"}'] == 0
    assert found['rankserve_serving{provider="cpu",ranker="feed",version="v2"}'] == 1


def test_telemetries_share_nothing() -> None:
    """Two apps in one process count apart."""
    one, other = Telemetry(), Telemetry()
    one.batch(requests=1, rows=10, seconds=0.001)
    assert figures(one)["rankserve_batch_rows_count"] == 1
    assert figures(other)["rankserve_batch_rows_count"] == 0


WORKER = """
import sys
from pathlib import Path
from service.telemetry import Telemetry
telemetry = Telemetry(Path(sys.argv[1]))
telemetry.request("/v1/rank", "ok", 0.001)
telemetry.serving({"feed": "v1"}, "cpu")
if sys.argv[2] == "show":
    print(telemetry.exposition()[0].decode())
"""


def test_a_scrape_of_one_worker_gives_the_sum_of_all(tmp_path: Path) -> None:
    """Counters of processes that share a folder add up, those of ended ones too."""
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path)]
    subprocess.run([*run, "quiet"], env=env, check=True)
    shown = subprocess.run([*run, "show"], env=env, check=True, capture_output=True, text=True).stdout
    assert 'rankserve_requests_total{outcome="ok",route="/v1/rank"} 2.0' in shown
    assert 'rankserve_serving{provider="cpu",ranker="feed",version="v1"} 2.0' in shown


def test_stages_add_up_to_the_total() -> None:
    """A lap ends one stage and begins the next: no time is lost between them."""
    watch = Stopwatch()
    watch.lap("a")
    watch.lap("b")
    assert list(watch.stages) == ["a", "b"]
    assert 0 <= sum(watch.stages.values()) <= watch.total


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
