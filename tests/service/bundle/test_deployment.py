"""The desired state and the workers' reports, as files."""

import os
import time
from pathlib import Path

import pytest

from service.bundle.deployment import (
    BURIED_S,
    STALE_S,
    DeployedRanker,
    Deployment,
    WorkerStatus,
    bury,
    live,
    read,
    report,
    stamp,
    this_host,
    update,
    withdraw,
    workers,
)
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from tests.service.bundle.processes import count_up, dead_pid, started


def serve(version: str, ranker: str = "default") -> Deployment:
    """A deployment of one ranker."""
    return Deployment(rankers={ranker: DeployedRanker(version=version)})


def told(worker: str, **changes: object) -> WorkerStatus:
    """A living worker's status, but for the changes."""
    now = time.time()
    status = WorkerStatus(
        worker=worker, pid=os.getpid(), host=this_host(), started=now, heartbeat=now, generation=1
    )
    return status.model_copy(update=changes)


def age(models: Path, worker: str, seconds: float) -> None:
    """Let its status file have been written so long ago."""
    then = time.time() - seconds
    os.utime(models / ".workers" / f"{worker}.json", (then, then))


def test_nothing_deployed(tmp_path: Path) -> None:
    """Where nothing was ever written, nothing is desired."""
    assert read(tmp_path) == Deployment()
    assert stamp(tmp_path) is None
    assert workers(tmp_path) == []


def test_update_counts_the_generation(tmp_path: Path) -> None:
    """Every change is a generation, the change sees its number, and a reader sees the change."""
    seen = []

    def change(deployed: Deployment) -> Deployment:
        seen.append(deployed.generation)
        return deployed.having("default", DeployedRanker(version=f"v{deployed.generation}"))

    assert update(tmp_path, change).generation == 1
    before = stamp(tmp_path)
    assert update(tmp_path, change) == read(tmp_path)
    assert stamp(tmp_path) != before
    assert read(tmp_path).rankers["default"].version == "v2"
    assert seen == [1, 2]


def test_no_change_is_no_write(tmp_path: Path) -> None:
    """A change that changes nothing, or raises, leaves the file and the generation alone."""
    update(tmp_path, lambda deployed: deployed.having("default", DeployedRanker(version="v1")))
    before = stamp(tmp_path)
    assert update(tmp_path, lambda deployed: deployed).generation == 1
    with pytest.raises(ZeroDivisionError):
        update(tmp_path, lambda deployed: deployed.having(str(1 // 0), None))
    assert stamp(tmp_path) == before


def test_having() -> None:
    """One ranker is set or taken out; the others stay."""
    both = serve("v1").having("feed", DeployedRanker(version="v2"))
    assert both.rankers.keys() == {"default", "feed"}
    assert both.having("default", None).rankers == {"feed": DeployedRanker(version="v2")}
    assert both.having("nobody", None) == both


def test_fusion_travels(tmp_path: Path) -> None:
    """A formula deployed in place of the bundle's reads back as itself."""
    formula = FusionFormula.parse({"groups": [{"factors": [{"task": "click", "weight": 2}]}]})
    update(tmp_path, lambda d: d.having("default", DeployedRanker(version="v1", fusion=formula)))
    assert read(tmp_path).rankers["default"].fusion == formula


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Invalid JSON"),
        ("[]", "the whole"),
        ('{"generation": -1}', "generation"),
        ('{"rankers": {"default": {"version": "../../etc"}}}', "rankers.default.version"),
        ('{"rankers": {"a/b": {"version": "v1"}}}', "rankers"),
        ('{"rankers": {"default": {"vresion": "v1"}}}', "rankers.default.vresion"),
        ('{"rankers": {"default": {"version": "v1", "fusion": {"groups": []}}}}', "fusion.groups"),
    ],
)
def test_broken_deployment(tmp_path: Path, content: str, reason: str) -> None:
    """A deployment.json that makes no sense is refused with the path of the culprit, and kept."""
    (tmp_path / "deployment.json").write_text(content)
    with pytest.raises(BundleError, match=r"deployment\.json: ") as raised:
        read(tmp_path)
    assert reason in str(raised.value)
    with pytest.raises(BundleError):
        update(tmp_path, lambda _: serve("v1"))
    assert (tmp_path / "deployment.json").read_text() == content


def test_unreadable_deployment(tmp_path: Path) -> None:
    """A deployment.json that cannot even be read says so."""
    (tmp_path / "deployment.json").mkdir()
    with pytest.raises(BundleError, match=r"deployment\.json cannot be read: Is a directory"):
        read(tmp_path)


def test_writers_do_not_lose_each_others_changes(tmp_path: Path) -> None:
    """Four processes that change the state at once change it one after the other."""
    writers = [started(count_up, tmp_path, 25) for _ in range(4)]
    for writer in writers:
        writer.join()
    assert read(tmp_path).generation == 100
    assert read(tmp_path).rankers["default"].operation == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "deployment.json"]


def test_reports(tmp_path: Path) -> None:
    """A worker's last report is what is read of it, until it withdraws."""
    report(tmp_path, told("a", generation=1))
    report(tmp_path, told("b", ready=("v1",), failed={"v2": "truncated"}, rankers={"default": "v1"}))
    report(tmp_path, told("a", generation=2))
    first, second = workers(tmp_path)
    assert (first.worker, first.generation) == ("a", 2)
    assert second.failed == {"v2": "truncated"}
    withdraw(tmp_path, "a")
    withdraw(tmp_path, "a")
    assert [status.worker for status in workers(tmp_path)] == ["b"]


def test_unreadable_reports_are_passed_over(tmp_path: Path) -> None:
    """A status file that is no status hides nobody else's."""
    report(tmp_path, told("a"))
    (tmp_path / ".workers" / "b.json").write_text("{")
    (tmp_path / ".workers" / "c.json").write_text(told("x").model_dump_json().replace('"x"', '"../x"'))
    (tmp_path / ".workers" / "d.json").write_text(told("x", pid=0).model_dump_json())
    assert [status.worker for status in workers(tmp_path)] == ["a"]


def test_who_is_alive(tmp_path: Path) -> None:
    """Alive is who has a fresh heartbeat and a process; of other hosts only the first is known."""
    report(tmp_path, told("alive"))
    report(tmp_path, told("hung"))
    age(tmp_path, "hung", STALE_S + 1)
    report(tmp_path, told("dead", pid=dead_pid()))
    report(tmp_path, told("elsewhere", host="elsewhere", pid=dead_pid()))
    report(tmp_path, told("init", pid=1))
    assert [status.worker for status in live(tmp_path)] == ["alive", "elsewhere", "init"]


@pytest.mark.parametrize("wrong_s", [-500, 500])
def test_the_clocks_of_hosts_may_differ(tmp_path: Path, wrong_s: float) -> None:
    """How old a heartbeat is the file system's clock says, and not the one that wrote it."""
    report(tmp_path, told("far", host="far", heartbeat=time.time() + wrong_s))
    report(tmp_path, told("silent", host="far", heartbeat=time.time() + wrong_s))
    age(tmp_path, "silent", STALE_S + 1)
    assert [status.worker for status in live(tmp_path)] == ["far"]


def test_what_nobody_wrote_to_for_long_is_buried(tmp_path: Path) -> None:
    """Whatever host it came from, and whether it can be read or not."""
    for worker in ("far", "older"):
        report(tmp_path, told(worker, host="elsewhere"))
    (tmp_path / ".workers" / "torn.json").write_text("{")
    for worker in ("older", "torn"):
        age(tmp_path, worker, BURIED_S + 1)
    bury(tmp_path)
    assert [path.name for path in (tmp_path / ".workers").glob("*.json")] == ["far.json"]


def test_what_is_staged_ends_with_its_time() -> None:
    """As if it was unstaged: a ranker that never served goes with it."""
    deployed = Deployment(
        rankers={
            "default": DeployedRanker(version="v1", staged="v2", staged_until=100.0),
            "feed": DeployedRanker(staged="v2", staged_until=100.0),
            "related": DeployedRanker(version="v1", staged="v2"),
        }
    )
    assert deployed.as_of(99.0) == deployed
    later = deployed.as_of(101.0)
    assert later.rankers.keys() == {"default", "related"}
    assert later.rankers["default"] == DeployedRanker(version="v1")
    assert later.rankers["related"].staged == "v2"


def test_the_dead_are_buried(tmp_path: Path) -> None:
    """Files of this host's dead workers are removed, and nobody else's."""
    for status in (told("alive"), told("dead", pid=dead_pid()), told("far", host="far", pid=dead_pid())):
        report(tmp_path, status)
    bury(tmp_path)
    assert [status.worker for status in workers(tmp_path)] == ["alive", "far"]
