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

CANDIDATES = 5


def show_next(console: Console, url: str, rankserve: str, models: Path, log: Log) -> None:
    """Print them; `rankserve` is that command."""
    chance = random.Random(13)
    request = log.request(chance, CANDIDATES) | {"tasks": True}
    likes = request | {"fusion": {"groups": [{"factors": [{"task": "like"}]}]}}
    rankserve, folder = shlex.quote(rankserve), shlex.quote(str(models))
    lines = {
        "Rank": [curl(url, request)],
        "Rank by a formula of your own": [curl(url, likes)],
        "Look": [f"{url}{path}" for path in ("/docs", "/readyz", "/metrics", "/v1/rankers")],
        "Move by hand": [
            f"{rankserve} promote {log.versions[0]} --models {folder}",
            f"{rankserve} rollback --models {folder}",
        ],
        "Put it under load": [
            f"{rankserve} loadtest {url} --rate 40 --duration 10 --users {log.users} --items {log.items}",
            f"{rankserve} loadtest {url} --sweep auto --chart charts",
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
