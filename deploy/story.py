"""The demo's steps, each told on the terminal as it happens."""

from __future__ import annotations

import os
import random
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy import children, slates
from deploy.children import DemoError
from deploy.log import Log
from deploy.running import Answer, Client, Service
from deploy.traffic import traffic

SLATES, CANDIDATES = 3, 12
"""Slates that are shown, and candidates in each."""
RATE, TRAFFIC_CANDIDATES = 40.0, 100
"""Requests a second while the versions change, and candidates in each."""
MARGIN_S = 1.0
"""How long those requests go on before the swap is asked for, and after it is done."""
EXPLAINED = {"tasks": True, "explain": True}


@dataclass(frozen=True, slots=True)
class Story:
    """A demo: of a log, in a folder, on a terminal. Every step raises DemoError where it cannot go on."""

    console: Console
    log: Log
    models: Path

    def train(self, data: Path | None, overrides: Sequence[str]) -> None:
        """Every version that is not there yet, each with a seed of its own."""
        options = ["--data", str(data)] if data else []
        options += [word for override in overrides for word in ("--set", override)]
        for seed, version in enumerate(self.log.versions, start=1):
            self._head(f"Train {version}")
            if (self.models / version).exists():
                self.console.print(f"{self.models / version} is there already.")
                continue
            run = ["--models", str(self.models), "--version", version, "--seed", str(seed)]
            self._run("ranktrain", "fit", os.path.relpath(self.log.config), *run, *options)

    def verify_and_promote(self) -> None:
        """Prove both bundles, show what they claim, and let the first serve."""
        self._head(f"Verify both, promote {self.log.versions[0]}")
        folder = ["--models", str(self.models)]
        for version in self.log.versions:
            self._run("rankserve", "bundles", "verify", version, *folder)
        claims = [
            children.ask("rankserve", "bundles", "show", version, "--json", *folder)
            for version in self.log.versions
        ]
        self.console.print(slates.versions_table(claims))
        self.console.print(f"score = {slates.formula_text(claims[0]['fusion'])}\n", markup=False)
        self._run("rankserve", "promote", self.log.versions[0], *folder)

    def wait_ready(self, service: Service, workers: int) -> None:
        """Until the service serves with the first version."""
        self._head("Serve")
        with self.console.status(f"{workers} workers load {self.log.versions[0]}"):
            service.wait_ready(self.log.versions[0], workers)
        self.console.print(f"{workers} workers serve at {service.url}; their log is {service.log}")

    def rank(self, client: Client) -> None:
        """A few users' slates."""
        self._head("Rank")
        for request in self._shown():
            answer = client.rank(request | EXPLAINED)
            known = slates.attributes(answer["items"][0])
            values = {name: attribute_values(client, request, name) for name in known}
            self.console.print(slates.slate_table(_title(request, answer), answer, values), "")

    def swap(self, client: Client) -> None:
        """Move to the second version in the midst of requests, and show what that changed."""
        first, second = self.log.versions
        self._head(f"Move from {first} to {second} while ranking goes on")
        shown = self._shown()[0]
        before, chance = client.rank(shown), random.Random(11)

        def ask() -> str:
            version: str = client.rank(self.log.request(chance, TRAFFIC_CANDIDATES))["version"]
            return version

        with (
            self.console.status(f"at most {RATE:g} requests a second, while the workers load {second}"),
            traffic(ask, RATE) as seen,
        ):
            time.sleep(MARGIN_S)
            started = time.perf_counter()
            promoted = client.promote(second)
            took_s = time.perf_counter() - started
            time.sleep(MARGIN_S)
        self.console.print(slates.traffic_table(seen.latencies_ms))
        self.console.print(
            f"{len(promoted['workers'])} workers loaded and verified {second}, and moved, in {took_s:.1f} s; "
            f"{len(seen.errors)} requests failed.\n"
        )
        if seen.errors:
            raise DemoError(f"requests failed while the version changed, the first so: {seen.errors[0]}")
        if promoted["behind"]:
            raise DemoError(f"workers did not follow: {promoted['behind']}")
        self.console.print(slates.change_table(_title(shown), before, client.rank(shown)))

    def serve_on(self, service: Service) -> None:
        """Until Ctrl-C. DemoError where the service ends by itself."""
        self.console.print("\nServing until Ctrl-C.")
        try:
            code = service.process.wait()
        except KeyboardInterrupt:
            return
        raise DemoError(f"the service ended by itself with {children.ending(code)}\n{service.last_words()}")

    def _shown(self) -> list[dict[str, Any]]:
        """The requests whose slates are shown: the same whenever asked for."""
        chance = random.Random(7)
        return [self.log.request(chance, CANDIDATES) for _ in range(SLATES)]

    def _head(self, title: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left")

    def _run(self, name: str, *arguments: str) -> None:
        """Run a command, its line shown first."""
        self.console.print(f"$ {shlex.join([name, *arguments])}", style="dim", markup=False, soft_wrap=True)
        children.run(name, *arguments)


def attribute_values(client: Client, request: dict[str, Any], name: str) -> dict[str, float]:
    """Id -> the item attribute, where it is known: by a formula of nothing else, the score is as good."""
    # Above 0, as a factor must be: then 1 is what the service does not know.
    alone = {"groups": [{"factors": [{"item": name, "offset": 1.0, "default": 0.0}]}]}
    items = client.rank(request | {"fusion": alone})["items"]
    return {item["id"]: item["score"] - 1 for item in items if item["score"] > 1}


def _title(request: dict[str, Any], answer: Answer | None = None) -> str:
    title = f"user {request['user_id']}"
    if answer is None:
        return title
    title += f", by {answer['version']} in {answer['timings_ms']['total']:.1f} ms"
    unknown = sum(answer["defaults"].values())
    return f"{title}; {unknown} ids are unknown" if unknown else title
