"""Background requests: counted by version, errors kept, and over when the block is."""

import threading

import pytest

from deploy.children import DemoError
from deploy.traffic import traffic


def test_answers_and_errors_are_kept_apart() -> None:
    """A request that failed stops none that follow."""
    done = threading.Event()
    script = iter(["v1", "v1", None, "v2"])

    def ask() -> str:
        version = next(script, "")
        if version is None:
            raise DemoError("refused")
        if not version:
            done.set()
        return version

    with traffic(ask, rate=1_000) as seen:
        assert done.wait(30)
    counts = {version: len(latencies) for version, latencies in seen.latencies_ms.items()}
    assert counts["v1"] == 2
    assert counts["v2"] == 1
    assert seen.errors == ["refused"]
    assert min(min(latencies) for latencies in seen.latencies_ms.values()) >= 0


def test_the_rate_is_a_bound() -> None:
    """At one a minute, there is one."""
    asked = threading.Event()

    def ask() -> str:
        asked.set()
        return "v1"

    with traffic(ask, rate=1 / 60) as seen:
        assert asked.wait(30)
    assert len(seen.latencies_ms["v1"]) == 1


def test_nothing_is_asked_after_the_block() -> None:
    """However the block ends, the thread has."""
    with pytest.raises(ZeroDivisionError), traffic(lambda: "v1", rate=1_000):
        raise ZeroDivisionError
    assert "traffic" not in {thread.name for thread in threading.enumerate()}
