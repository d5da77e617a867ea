"""What to try next, in lines that work as they are printed."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.log import Log

CANDIDATES, LOAD_CANDIDATES = 5, 500


def show_next(console: Console, url: str, rankserve: str, models: Path, log: Log) -> None:
    """Print them; `rankserve` is that command. What wrk is to send goes to a file beside the versions."""
    chance = random.Random(13)
    request = log.request(chance, CANDIDATES) | {"tasks": True}
    likes = request | {"fusion": {"groups": [{"factors": [{"task": "like"}]}]}}
    lua = models / "rank.lua"
    lua.write_text(lua_script(log.request(chance, LOAD_CANDIDATES)))
    rankserve, folder = shlex.quote(rankserve), shlex.quote(str(models))
    lines = {
        "Rank": [curl(url, request)],
        "Rank by a formula of your own": [curl(url, likes)],
        "Look": [f"{url}{path}" for path in ("/docs", "/readyz", "/metrics", "/v1/rankers")],
        "Move by hand": [
            f"{rankserve} promote {log.versions[0]} --models {folder}",
            f"{rankserve} rollback --models {folder}",
        ],
        f"Put it under load, {LOAD_CANDIDATES} candidates a request": [
            f"wrk -t2 -c8 -d10s --latency -s {shlex.quote(str(lua))} {url}/v1/rank"
        ],
    }
    console.print()
    console.rule("[bold]Try next", align="left")
    for title, commands in lines.items():
        console.print(f"[bold]{title}[/]")
        for command in commands:
            console.print(f"  {command}", markup=False, soft_wrap=True)


def curl(url: str, request: Mapping[str, Any]) -> str:
    """A command line that ranks."""
    body = shlex.quote(json.dumps(request))
    return f"curl -s {url}/v1/rank -H 'Content-Type: application/json' -d {body}"


def lua_script(request: Mapping[str, Any]) -> str:
    """For wrk: what it is to send."""
    return (
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [=[{json.dumps(request)}]=]\n"
    )
