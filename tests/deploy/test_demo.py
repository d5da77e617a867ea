"""The demo's command line, its folder, and the lines that it says work."""

import io
import json
import random
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from deploy.children import DemoError
from deploy.demo import log_of, make_room, only_demo_in, parse
from deploy.log import KUAIRAND, SYNTHETIC
from deploy.trying import curl, show_next


def test_the_command_line_needs_nothing() -> None:
    """By default: the synthetic log, a free port, and serving on."""
    options = parse([])
    assert not options.once
    assert not options.reuse
    assert options.port == 0
    assert log_of(options.data) is SYNTHETIC


def test_the_command_line_is_read() -> None:
    """Overrides for training add up."""
    options = parse(
        ["--once", "--models", "m", "--port", "8000", "--set", "train.epochs=1", "--set", "users=9"]
    )
    assert options.once
    assert options.models == Path("m")
    assert options.port == 8000
    assert options.set == ["train.epochs=1", "users=9"]


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
def test_a_port_is_a_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is refused with what is allowed."""
    with pytest.raises(SystemExit):
        parse([f"--port={port}"])
    assert "port" in capsys.readouterr().err


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Before anything is trained or removed."""
    with pytest.raises(DemoError, match="there is no folder"):
        log_of(tmp_path / "nowhere")
    if KUAIRAND.config.is_file():
        assert log_of(tmp_path) is KUAIRAND
    else:
        with pytest.raises(DemoError, match="kuairand"):
            log_of(tmp_path)


def test_the_demos_own_folder_is_emptied(tmp_path: Path) -> None:
    """With whatever an earlier one left."""
    (tmp_path / "demo-1").mkdir()
    (tmp_path / "demo-1" / "manifest.json").touch()
    (tmp_path / "deployment.json").touch()
    make_room(tmp_path, ["demo-1"], empty=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_named_is_left_as_it_is(tmp_path: Path) -> None:
    """A version in the way is refused, and others do not matter."""
    (tmp_path / "mine").mkdir()
    make_room(tmp_path, ["demo-1", "demo-2"], empty=False)
    (tmp_path / "demo-2").mkdir()
    with pytest.raises(DemoError, match=r"demo-2 exists; serve it with --reuse"):
        make_room(tmp_path, ["demo-1", "demo-2"], empty=False)
    assert (tmp_path / "mine").is_dir()


def test_one_demo_a_folder(tmp_path: Path) -> None:
    """The folder is made, held, and free again; an error inside is not mistaken for another demo."""
    folder = tmp_path / "new"
    with only_demo_in(folder), pytest.raises(DemoError, match="another demo runs"), only_demo_in(folder):
        pass
    with pytest.raises(BlockingIOError), only_demo_in(folder):
        raise BlockingIOError
    with only_demo_in(folder):
        pass


def test_requests_are_drawn_again_the_same() -> None:
    """Ids are numbers that the log has, each candidate once."""
    first, again = (SYNTHETIC.request(random.Random(3), 500) for _ in range(2))
    assert first == again
    assert len(set(first["candidates"])) == 500
    assert all(0 <= int(item) < SYNTHETIC.items for item in first["candidates"])


def test_a_curl_line_holds_the_request() -> None:
    """As a shell reads it, quotes and all."""
    request = {"user_id": "it's", "candidates": ["1"]}
    words = shlex.split(curl("http://127.0.0.1:1", request))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:1/v1/rank"]
    assert json.loads(words[-1]) == request


def test_no_line_to_try_is_broken(tmp_path: Path) -> None:
    """On a narrow terminal too: a line is copied whole."""
    console = Console(file=io.StringIO(), width=40)
    show_next(console, "http://127.0.0.1:1", "bin/rankserve", tmp_path, SYNTHETIC)
    assert isinstance(console.file, io.StringIO)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert f"bin/rankserve promote demo-1 --models {tmp_path}" in lines
    load = "--rate 40 --duration 10 --users 2000 --items 5000"
    assert f"bin/rankserve loadtest http://127.0.0.1:1 {load}" in lines
    assert sum(line.startswith("curl") and line.endswith("}'") for line in lines) == 2
