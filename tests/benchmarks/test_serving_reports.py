"""What the serving benchmarks make of what they measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.serving import growth, stages, wrk
from benchmarks.serving.anchors import Anchor
from benchmarks.serving.freshness import Seen
from benchmarks.serving.freshness import told as freshness_told
from benchmarks.serving.growth import FLAT, Cost
from benchmarks.serving.held import Held, told, within
from benchmarks.serving.report import Measured, report

OURS = Measured("rankserve", 500, 90.0, 4.0, 6.0, 10.0, 300.0, 200.0, 0, 60.0)
LOOK = Held({"v1": 300.0, "v2": 200.0}, {"v1": "resident", "v2": "on_demand"}, rss=900.0, pss=700.0)


def test_a_report_says_what_ours_comes_to_beside_each_other_server() -> None:
    """Ratios of candidates and of the open-loop rate, in both precisions; the best peer is none of ours."""
    served = [
        OURS,
        replace(OURS, name="rankserve limit 50", per_s=120.0, poisson=None),
        replace(OURS, name="rankserve int8", per_s=135.0, p50_ms=2.0),
        replace(OURS, name="one", per_s=30.0, poisson=20.0),
        replace(OURS, name="two+", per_s=20.0, poisson=15.0),
        replace(OURS, name="one split", per_s=45.0, poisson=40.0),
    ]
    text = report([Anchor("flat", 500, 45.0, 8.0, "2 threads x 1")], served)
    assert "rankserve / bare flat.onnx: 2.00 (2.00 to 2.00) of its candidates/s, 0.50" in text
    assert "rankserve / one: 3.00 of its candidates/s (the best peer)" in text
    assert "rankserve / two+: 4.50 of its candidates/s\n" in text
    assert "rankserve / one split: 2.00 of its candidates/s\n" in text
    assert "rankserve / one: 3.00 of its Poisson rate (the best peer)" in text
    assert "rankserve / rankserve limit 50: 0.75 of its candidates/s" in text
    assert "rankserve int8 / bare flat.onnx: 3.00 (3.00 to 3.00) of its candidates/s, 0.25" in text
    assert "rankserve int8 / rankserve: 1.50 of its candidates/s\n" in text
    assert "rankserve int8 / one: 4.50 of its candidates/s (the best peer)" in text


def test_growth_is_told_by_size_and_beside_the_first() -> None:
    """A cost that grows with the candidates, and one that ours has of flat's."""
    costs = {
        ("20 items", 500): [Cost(100.0, 20.0, 30.0)],
        (FLAT, 500): [Cost(50.0, 40.0, 60.0)],
        ("20 items", 2000): [Cost(80.0, 22.0, 33.0)],
        (FLAT, 2000): [Cost(50.0, 40.0, 60.0)],
    }
    text = "\n".join(growth.report(costs))
    assert "2,000 / 500 candidates: a candidate takes 1.10 of its processor time, 1.25 of both cores'" in text
    assert f"500 candidates, 20 items / {FLAT}: a candidate takes 0.50 of its processor time, 0.50 of" in text


def test_a_state_above_its_budget_is_told() -> None:
    """All versions count together."""
    assert within([LOOK], 500.0)
    assert not within([LOOK, replace(LOOK, state={"v1": 501.0})], 500.0)
    assert "at most 500.0 MiB of a budget of 500, never above it" in told([LOOK], 500.0)
    assert "ABOVE IT" in told([LOOK], 499.0)


@pytest.mark.parametrize(
    ("age_s", "kind", "stale"),
    [(0.3, "old", False), (1.2, "new", False), (1.2, "old", True), (1.2, "mixed", True), (1.0, "429", True)],
)
def test_only_a_new_score_is_no_stale_one_after_a_second(age_s: float, kind: str, stale: bool) -> None:
    """An old one is let pass before."""
    seen = Seen(age_s, "worker", kind)
    assert seen.stale is stale
    assert f"not new: {int(stale)}" in freshness_told([seen], probes=1)


def test_the_table_of_stages_has_shares_of_the_whole() -> None:
    """Each stage by its name, what the features take together, and where most of the time goes."""
    one = {"parse": 1.0, "fetch": 2.0, "encode": 1.0, "rank": 4.0, "whole": 10.0}
    text = "\n".join(stages.table({"all near": [one, one]}))
    assert "parse and validate the JSON" in text
    assert "20.0%" in text
    assert "fetch and encode take 30.0% of the whole" in text
    assert "most goes to: infer: rank.onnx, then fetch features" in text


def test_wrk_sends_the_requests_that_lie_beside_its_script(tmp_path: Path) -> None:
    """By the same name, one a line."""
    script = wrk.write_bodies(tmp_path / "wrk", "some", [{"user_id": "u1"}, {"user_id": "u2"}])
    assert '"some.jsonl"' in script.read_text()
    lines = script.with_suffix(".jsonl").read_text().splitlines()
    assert [json.loads(line)["user_id"] for line in lines] == ["u1", "u2"]
