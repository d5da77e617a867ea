"""What a model finds to share runs, when it is loaded; and what is run together."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.engine import EngineOptions
from service.model import Model, ModelOptions
from tests.tiny import write_tiny


@pytest.mark.parametrize(
    ("share_runs", "max_batch_rows", "found"),
    [
        (False, 2048, "every request has runs of its own"),
        (True, 20, "every request has runs of its own"),  # nothing to be measured
        (True, 80, "(every request has runs of its own|requests of up to 20 candidates share runs, .*)"),
        (True, 2048, "(every request has .*|requests of up to (20|50|100|200) candidates share runs, .*)"),
    ],
)
def test_the_log_says_what_shares_a_run(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    share_runs: bool,
    max_batch_rows: int,
    found: str,
) -> None:
    """As measured for this version on this machine, of no more rows than a batch may have; and as wanted."""
    caplog.set_level("INFO", "service.model")
    options = ModelOptions(
        EngineOptions(provider="cpu", max_rows=64), max_batch_rows=max_batch_rows, share_runs=share_runs
    )
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(write_tiny(tmp_path, "v1").folder, options, executor)
        model.close()
    (said,) = (message for message in caplog.messages if re.fullmatch(f"v1: {found}", message))
    rows = re.search(r"up to (\d+)", said)
    assert model.engine._shared_rows == (int(rows[1]) if rows else 0)
    together = model.batcher._max_entries, model.batcher._max_rows
    assert together == ((32 if share_runs else 1), min(1024, max_batch_rows))


def test_what_a_run_costs_is_known_before_the_first_request(tmp_path: Path) -> None:
    """Warm-up learns it, so that admission need not guess."""
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(
            write_tiny(tmp_path, "v1").folder, ModelOptions(EngineOptions(provider="cpu")), executor
        )
        assert model.batcher._cost.known
        model.close()
