"""`make demo`: train two versions, serve one, rank, and move to the other while ranking goes on.

Does what a stranger would: runs `ranktrain` and `rankserve`, and asks the service over HTTP. Imports neither.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from deploy.children import DemoError, ending, script
from deploy.log import KUAIRAND, SYNTHETIC, Log
from deploy.running import serving
from deploy.story import Story
from deploy.trying import show_next

MODELS = Path(".demo")
WORKERS = 2
PIPE_COLUMNS = 120
"""Width of what is no terminal."""


def main() -> None:
    """Run the demo; exits with 1 where something failed."""
    options = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, told_to_end)
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    try:
        run(options, console)
    except (DemoError, OSError) as error:
        console.print("\n[bold red]The demo failed:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        sys.exit(128 + signal.SIGINT)
    finally:
        console.show_cursor()  # a progress bar that was cut short has hidden it


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo", description="Train two versions, serve, rank, swap; then serve on."
    )
    parser.add_argument("--once", action="store_true", help="end after that, instead of serving on")
    parser.add_argument("--data", type=Path, metavar="DIR", help="train on KuaiRand's files in this folder")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help=f"folder for the versions; else {MODELS}, emptied first",
    )
    parser.add_argument("--reuse", action="store_true", help="serve the versions of an earlier demo")
    parser.add_argument("--port", type=port, default=0, metavar="N", help="to serve on; else a free one")
    # To try the demo itself out: passed on to ranktrain, as in --set train.epochs=1.
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> None:
    """The demo, from the folder to the end of the service."""
    log = log_of(options.data)
    models: Path = options.models or MODELS
    story = Story(console, log, models)
    with only_demo_in(models):
        if not options.reuse:
            make_room(models, log.versions, empty=options.models is None)
        story.train(options.data, options.set)
        story.verify_and_promote()
        with serving(models, options.port, WORKERS) as service:
            story.wait_ready(service, WORKERS)
            story.rank(service.client)
            story.swap(service.client)
            show_next(console, service.url, script("rankserve"), models, log)
            if not options.once:
                story.serve_on(service)
        if code := service.process.returncode:
            raise DemoError(f"the service ended with {ending(code)}\n{service.last_words()}")
        console.print("\nThe service has ended.")


def log_of(data: Path | None) -> Log:
    """What to train on. DemoError where it is not there."""
    log = SYNTHETIC if data is None else KUAIRAND
    if data is not None and not data.is_dir():
        raise DemoError(f"there is no folder {data}; --data is the folder of KuaiRand's files")
    if not log.config.is_file():
        raise DemoError(f"there is no {log.config}; run the demo without --data")
    return log


@contextmanager
def only_demo_in(models: Path) -> Iterator[None]:
    """Hold the folder: another demo would train into it, and move what this one serves."""
    models.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(models, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DemoError(f"another demo runs in {models}; end it, or use --models DIR") from None
    try:
        yield
    finally:
        os.close(descriptor)


def make_room(models: Path, versions: Sequence[str], *, empty: bool) -> None:
    """Versions never change, so new ones need their names free. Empties a folder that is the demo's own."""
    if empty:
        for path in models.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for version in versions:
        if (models / version).exists():
            raise DemoError(f"{models / version} exists; serve it with --reuse, or remove it")


def port(given: str) -> int:
    """A port of the command line."""
    number = int(given)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{number} is no port: 0 to 65535")
    return number


def told_to_end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by way of every `finally`, so that what was started ends too."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
