"""The two command lines as child processes, none of which outlives the block that started it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0
"""A child that has not ended so long after it was told to is killed."""


class DemoError(Exception):
    """The demo cannot go on; the message is for its reader."""


def script(name: str) -> str:
    """Where an installed command lies: beside the Python that runs this. DemoError where it does not."""
    path, here = Path(sys.executable).with_name(name), Path.cwd()
    if not path.is_file():
        raise DemoError(f"there is no {path}; install the project with: make setup")
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def run(name: str, *arguments: str) -> None:
    """Run a command to its end, its output passed through. DemoError where it fails."""
    with child([script(name), *arguments]) as process:
        code = process.wait()
    if code:
        raise DemoError(f"{name} {arguments[0]} ended with {ending(code)}; its last lines say why")


def ask(name: str, *arguments: str) -> Any:
    """What a command prints as JSON, whatever its exit code. DemoError where it prints none."""
    with child([script(name), *arguments], stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate()
    try:
        return json.loads(printed)
    except ValueError:
        raise DemoError(
            f"{name} {arguments[0]} printed no JSON and ended with {ending(process.returncode)}"
        ) from None


@contextmanager
def child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that ends with the block. Its group is its own: Ctrl-C reaches the demo alone."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, **options)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any], patience_s: float = PATIENCE_S) -> None:
    """SIGTERM where it has not ended, and wait; SIGKILL after `patience_s`, or at once on another Ctrl-C."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    finally:
        process.kill()
        process.wait()


def ending(code: int) -> str:
    """A return code in words; a negative one is a signal."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def until(missing: Callable[[], str | None], limit_s: float, pause_s: float = 0.1) -> None:
    """Wait until nothing is missing any more. DemoError with what still is after `limit_s`."""
    last = time.monotonic() + limit_s
    while (what := missing()) is not None:
        if time.monotonic() >= last:
            raise DemoError(f"after {limit_s:g} s {what}")
        time.sleep(pause_s)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of the service's log, readable: its JSON lines as level and message."""
    return "\n".join(map(_readable, log.read_text(errors="replace").splitlines()[-lines:]))


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, Mapping) or "message" not in entry:
        return line
    reason = str(entry.get("exception", "")).splitlines()[-1:]
    return "\n        ".join([f"{entry.get('level', ''):<8}{entry['message']}", *reason])
