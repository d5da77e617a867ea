"""What generators found; that of several adds up, and travels as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from service.loadtest.client import Answer
from service.loadtest.histogram import Durations
from service.loadtest.plan import Load

SAMPLES = 20
"""The backlog is looked at so often in a run, at equal distances, and at its start."""
TIMEOUT = "timeout"
NOT_SENT = "not sent"
LATE = "generator late"
"""The generator turned to a request when the time for it was over."""
REFUSED = ("4", "503", "refused", "cannot connect")
"""How the kinds begin of what the service, or the system, says at once: no request has waited for it."""


@dataclass
class Window:
    """What was due in one part of a run."""

    latency: Durations = field(default_factory=Durations)
    """from when a request was due to its slate; of those that waited and got none, to when that was known"""
    planned: int = 0
    errors: int = 0

    def add(self, other: Window) -> None:
        """Those of another generator."""
        self.latency.add(other.latency)
        self.planned += other.planned
        self.errors += other.errors


@dataclass
class Measured:
    """One run."""

    windows: list[Window]
    in_time: int = 0
    """answered before the run's planned end"""
    errors: Counter[str] = field(default_factory=Counter)
    """by kind: a status with the service's word for it, `refused`, `timeout`, `not sent` …"""
    versions: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    """answers that did without a store, by store"""
    candidates: int = 0
    """ranked"""
    defaults: Counter[str] = field(default_factory=Counter)
    """ids that the service had no features for, by table"""
    stages: defaultdict[str, Durations] = field(default_factory=lambda: defaultdict(Durations))
    """the service's own times"""
    failures: Durations = field(default_factory=Durations)
    """from when a request was due to when it failed, of all that were sent"""
    lateness: Durations = field(default_factory=Durations)
    """from when a request was due to when its generator turned to it"""
    queueing: Durations = field(default_factory=Durations)
    """from then to when it went out, or was given up: the wait for a connection"""
    backlog: list[int] = field(default_factory=lambda: [0] * (SAMPLES + 1))
    """requests that were due and not over, at equal distances"""
    cpu: list[float] = field(default_factory=list)
    """share of a core that each generator took"""

    @staticmethod
    def nothing(load: Load) -> Measured:
        """Before a run."""
        return Measured([Window() for _ in range(load.windows)])

    @property
    def planned(self) -> int:
        """Requests that were due."""
        return sum(window.planned for window in self.windows)

    @property
    def failed(self) -> int:
        """Those that got no slate."""
        return self.errors.total()

    @property
    def answered(self) -> int:
        """Those that got one."""
        return self.versions.total()

    @property
    def latency(self) -> Durations:
        """Of the whole run."""
        whole = Durations()
        for window in self.windows:
            whole.add(window.latency)
        return whole

    def answer(self, window: Window, answer: Answer, latency_s: float, *, in_time: bool) -> None:
        """An answer came."""
        slate = _read(answer) if answer.status == 200 else None
        if slate is None:
            self.fail(window, _kind(answer), latency_s)
            return
        window.latency.record(latency_s)
        self.in_time += in_time
        self.versions[slate.version] += 1
        self.degraded.update(slate.degraded)
        self.candidates += slate.ranked
        self.defaults.update(slate.defaults)
        for stage, seconds in slate.stages.items():
            self.stages[stage].record(seconds)

    def fail(self, window: Window, kind: str, waited_s: float | None = None) -> None:
        """A request got no slate; it had waited so long, or was not sent at all.

        One that waited counts in the latency: left out, it would flatter the service. One that was refused at
        once would do so if it were in.
        """
        window.errors += 1
        self.errors[kind] += 1
        if waited_s is not None:
            self.failures.record(waited_s)
            if waited(kind):
                window.latency.record(waited_s)

    def add(self, other: Measured) -> None:
        """What another generator found in the same run."""
        for window, others in zip(self.windows, other.windows, strict=True):
            window.add(others)
        self.in_time += other.in_time
        self.candidates += other.candidates
        for name in ("errors", "versions", "degraded", "defaults"):
            getattr(self, name).update(getattr(other, name))
        for stage, durations in other.stages.items():
            self.stages[stage].add(durations)
        self.failures.add(other.failures)
        self.lateness.add(other.lateness)
        self.queueing.add(other.queueing)
        self.backlog = [a + b for a, b in zip(self.backlog, other.backlog, strict=True)]
        self.cpu += other.cpu

    def encode(self) -> dict[str, Any]:
        """As what JSON can hold, to travel between processes."""
        windows = [(window.latency.encoded(), window.planned, window.errors) for window in self.windows]
        stages = {stage: durations.encoded() for stage, durations in self.stages.items()}
        alone = {name: getattr(self, name).encoded() for name in ("failures", "lateness", "queueing")}
        return vars(self) | alone | {"windows": windows, "stages": stages}

    @staticmethod
    def decode(read: Mapping[str, Any]) -> Measured:
        """What `encode` gave."""
        stages = {stage: Durations(times) for stage, times in read["stages"].items()}
        counts = {name: Counter(read[name]) for name in ("errors", "versions", "degraded", "defaults")}
        return Measured(
            windows=[Window(Durations(latency), *rest) for latency, *rest in read["windows"]],
            in_time=read["in_time"],
            candidates=read["candidates"],
            stages=defaultdict(Durations, stages),
            failures=Durations(read["failures"]),
            lateness=Durations(read["lateness"]),
            queueing=Durations(read["queueing"]),
            backlog=read["backlog"],
            cpu=read["cpu"],
            **counts,
        )

    def summary(self, load: Load) -> dict[str, Any]:
        """Everything, for machines; times in milliseconds."""
        return {
            "rate": load.rate,
            "duration_s": load.duration_s,
            "planned": self.planned,
            "answered": self.answered,
            "answered_in_time": self.in_time,
            "achieved_rate": self.in_time / load.duration_s,
            "errors": self.errors,
            "latency_ms": self.latency.summary(),
            "failed_ms": self.failures.summary(),
            "windows": [
                {"planned": w.planned, "errors": w.errors, "latency_ms": w.latency.summary()}
                for w in self.windows
            ],
            "server_ms": _summaries(self.stages),
            "versions": self.versions,
            "degraded": self.degraded,
            "candidates": self.candidates,
            "defaults": self.defaults,
            "backlog": self.backlog,
            "connection_wait_ms": self.queueing.summary(),
            "generator": {"lateness_ms": self.lateness.summary(), "cpu": self.cpu},
        }


def _summaries(durations: Mapping[str, Durations]) -> dict[str, dict[str, float | int | str | None]]:
    return {name: values.summary() for name, values in durations.items()}


def waited(kind: str) -> bool:
    """Has a request that failed so waited for it, as for an answer?"""
    return not kind.startswith(REFUSED)


class _Slate(NamedTuple):
    """What an answer says."""

    version: str
    degraded: Counter[str]
    ranked: int
    defaults: Counter[str]
    stages: dict[str, float]
    """seconds"""


def _read(answer: Answer) -> _Slate | None:
    """The slate in an answer, if there is one."""
    try:
        said = orjson.loads(answer.body)
        return _Slate(
            version=str(said["version"]),
            degraded=Counter(map(str, said["degraded"])),
            ranked=len(said["items"]),
            defaults=Counter({table: int(count) for table, count in said["defaults"].items()}),
            stages={stage: float(ms) / 1e3 for stage, ms in said["timings_ms"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _kind(answer: Answer) -> str:
    """A status, and the service's word for it where it gives one."""
    if answer.status == 200:
        return "200 without a slate"
    try:
        return f"{answer.status} {orjson.loads(answer.body)['error']['type']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return str(answer.status)


def counted(counts: Mapping[str, int]) -> Sequence[str]:
    """`504 deadline_exceeded 12`, the most frequent first."""
    return [f"{name} {count:,}" for name, count in Counter(counts).most_common()]
