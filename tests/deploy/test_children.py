"""Child processes: what they print and how they end is told, and none is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from deploy.children import DemoError, ask, child, end, ending, run, script, tail, until

ROOT = Path(__file__).parent.parent.parent
PYTHON = Path(sys.executable).name
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
]
KEEPER = """
import signal, sys
from deploy.children import child
from deploy.demo import told_to_end
signal.signal(signal.SIGTERM, told_to_end)
with child([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
    print(process.pid, flush=True)
    process.wait()
"""


def is_alive(pid: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def interrupted(after_s: float) -> Iterator[None]:
    """Ctrl-C, so many seconds from now."""

    def press(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_script_lies_beside_the_python_that_runs() -> None:
    """It is found there; one that is not is named with the fix."""
    assert Path(script(PYTHON)).samefile(sys.executable)
    with pytest.raises(DemoError, match="make setup"):
        script("no-such-script")


def test_a_failing_command_is_told_with_its_code() -> None:
    """Success passes in silence."""
    run(PYTHON, "-c", "pass")
    with pytest.raises(DemoError, match="exit code 3"):
        run(PYTHON, "-c", "raise SystemExit(3)")
    with pytest.raises(DemoError, match="SIGKILL"):
        run(PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_json_is_read_whatever_the_exit_code() -> None:
    """What is no JSON is an error that names the code."""
    assert ask(PYTHON, "-c", "print('[1, 2]'); raise SystemExit(1)") == [1, 2]
    with pytest.raises(DemoError, match="no JSON and ended with exit code 4"):
        ask(PYTHON, "-c", "raise SystemExit(4)")


def test_a_child_is_told_to_end_when_its_block_does() -> None:
    """However the block ends."""
    with child(SLEEP) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM
    with pytest.raises(ZeroDivisionError), child(SLEEP) as process:
        raise ZeroDivisionError
    assert process.returncode is not None


def test_a_child_that_has_ended_keeps_its_code() -> None:
    """Ending it again changes nothing."""
    with child([sys.executable, "-c", "raise SystemExit(7)"]) as process:
        process.wait()
    assert process.returncode == 7
    assert ending(7) == "exit code 7"


def test_a_child_that_does_not_listen_is_killed() -> None:
    """After the patience, and no later than a second Ctrl-C."""
    for patience_s, press_s in ((0.1, 60.0), (60.0, 1.0)):
        with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                with interrupted(press_s):
                    end(process, patience_s)
            except KeyboardInterrupt:
                assert press_s < patience_s
        assert process.returncode == -signal.SIGKILL


def test_nothing_is_left_where_the_demo_itself_is_told_to_end() -> None:
    """SIGTERM leaves by way of every `finally`."""
    command = [sys.executable, "-c", KEEPER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as keeper:
        assert keeper.stdout is not None
        pid = int(keeper.stdout.readline())
        assert is_alive(pid)
        keeper.terminate()
        assert keeper.wait(30) == 128 + signal.SIGTERM
    assert not is_alive(pid)


def test_waiting_ends_when_nothing_is_missing() -> None:
    """Asked again and again; what is missing in the end is what the error says."""
    answers = iter(["one thing", "another", None])
    until(lambda: next(answers), limit_s=60, pause_s=0)
    with pytest.raises(DemoError, match=r"after 0\.05 s the moon is missing"):
        until(lambda: "the moon is missing", limit_s=0.05, pause_s=0.01)


def test_an_error_ends_the_waiting_at_once() -> None:
    """What cannot come any more is not waited for."""
    asked = []

    def missing() -> str:
        asked.append(True)
        raise DemoError("it is dead")

    with pytest.raises(DemoError, match="it is dead"):
        until(missing, limit_s=60)
    assert len(asked) == 1


def test_the_tail_of_a_log_can_be_read(tmp_path: Path) -> None:
    """JSON lines as level and message with the reason of an exception, others as they are, the last few."""
    log = tmp_path / "service.log"
    log.write_text(
        '{"level": "info", "message": "too old"}\n'
        '{"level": "error", "message": "it broke", "exception": "Traceback\\n  line 1\\nOSError: full"}\n'
        "Killed\n"
        "[1, 2]\n"
    )
    assert tail(log, 3).splitlines() == ["error   it broke", "        OSError: full", "Killed", "[1, 2]"]
