"""What to make of a run, in plain words. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from service.loadtest.histogram import BEYOND, PERCENTILES
from service.loadtest.measured import LATE, NOT_SENT, SAMPLES, TIMEOUT, Measured, counted, waited
from service.loadtest.plan import Load

GROWS = 0.05
"""A service whose backlog grows by more than this share of what is asked does not keep up."""
HALF, END = slice(SAMPLES // 2 - 2, SAMPLES // 2 + 1), slice(SAMPLES - 2, SAMPLES + 1)
"""Of the backlog's samples: as many before and at half time as before and at the end."""
SHED = 0.01
"""Nor does one that refuses more than this share, or answers it too late."""
QUEUED = 0.25
"""A wait for connections that is more than this share of the latency, each at p99, is told."""
LATE_MS = 10.0
"""A generator that is later than this at p99 measures itself."""
MOST = 0.5
"""Where that is more than this share of the latency, each at p99, it hides the service."""
BUSY = 0.9
"""So does one that takes more than this share of a core, where it is late by a millisecond or two."""
BUSY_LATE_MS = 2.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A run and what to make of it."""

    load: Load
    measured: Measured
    slo_p99_ms: float | None = None

    @property
    def passed(self) -> bool:
        """No request failed, and p99 is within the objective where there is one."""
        return not self.measured.failed and self.missed is None

    @property
    def missed(self) -> str | None:
        """By how much p99 is beyond the objective."""
        p99 = self.measured.latency.ms(99)
        if self.slo_p99_ms is None or p99 <= self.slo_p99_ms:
            return None
        return f"p99 of {p99:.1f} ms misses the objective of {self.slo_p99_ms:g} ms"

    @property
    def carried(self) -> bool:
        """Every window has samples enough for its p99."""
        return all(window.latency.carries(99) for window in self.measured.windows)

    @property
    def hides_service(self) -> bool:
        """The generator's own lateness is most of what was measured: it tells nothing of the service."""
        late, latency = self.measured.lateness.ms(99), self.measured.latency.ms(99)
        return bool(self.generator_bound and (self.measured.errors[LATE] or late > MOST * latency))

    @property
    def overload(self) -> str | None:
        """Whether the service can't keep up with the load; nothing is said where the generator hides it."""
        load, measured = self.load, self.measured
        achieved = (
            f"asked {load.rate:g} requests/s, answered {measured.in_time / load.duration_s:.1f}/s in time"
        )
        # Medians of some samples: the service may have stood still at just one of them.
        half, end = int(median(measured.backlog[HALF])), int(median(measured.backlog[END]))
        growth = (end - half) / (load.duration_s / 2)
        reasons = []
        if end > BEYOND and growth > GROWS * load.rate:
            reasons.append(f"the backlog grew from {half:,} requests at half time to {end:,} at the end")
        shed = {kind: n for kind, n in measured.errors.items() if _is_shed(kind)}
        if sum(shed.values()) > SHED * measured.planned:
            reasons.append(f"not served: {', '.join(counted(shed))} of {measured.planned:,}")
        if not reasons or self.hides_service:
            return None
        return f"The service does not keep up: {achieved}; {'; '.join(reasons)}."

    @property
    def generator_bound(self) -> str | None:
        """Whether the generator itself is what was measured."""
        late, busiest = self.measured.lateness.ms(99), max(self.measured.cpu, default=0.0)
        if not (late > LATE_MS or (busiest > BUSY and late > BUSY_LATE_MS)):
            return None
        fix = (
            "use more --processes" if busiest > BUSY else "it needs a core to itself, or a machine of its own"
        )
        return (
            f"The generator was itself late (p99 {late:.1f} ms, with {busiest:.0%} of a core), and so are "
            f"the latencies: {fix}."
        )

    def notes(self) -> dict[str, str]:
        """All that a reader of the figures must know, by what it is about."""
        missed = f"The {self.missed}." if self.missed else None
        own = {"overload": self.overload, "generator": self.generator_bound, "objective": missed}
        return {
            **{about: note for about, note in own.items() if note},
            **dict(self._of_samples()),
            **dict(self._of_waits()),
            **dict(self._of_answers()),
        }

    def _of_samples(self) -> Iterator[tuple[str, str]]:
        """Too few of them."""
        load, latency = self.load, self.measured.latency
        chance = f"fewer than {BEYOND} lie beyond, and the figure is chance."
        if load.windows > 1 and not self.carried:
            enough = 1.1 * load.windows * _samples(99) / load.rate  # a tenth more: arrivals vary
            yield (
                "samples",
                f"A window has too few samples for its p99 (from {_samples(99):,.0f} on): {chance} "
                f"--duration {math.ceil(enough)} has enough.",
            )
        if load.windows == 1 and (thin := [q for q in PERCENTILES if not latency.carries(q)]):
            named = ", ".join(f"p{q:g} (from {_samples(q):,.0f} on)" for q in thin)
            yield "samples", f"{latency.count:,} samples are too few for {named}: {chance} Run longer."

    def _of_waits(self) -> Iterator[tuple[str, str]]:
        """What lies between a request and the service."""
        measured = self.measured
        if (queued := measured.queueing.ms(99)) > QUEUED * measured.latency.ms(99):
            yield (
                "connections",
                f"Much of the latency is the wait for a connection (p99 {queued:.1f} ms): all were in use. "
                "Where callers have more of them, raise --connections.",
            )
        for kind, why in (
            (NOT_SENT, "as many as --in-flight allows were already on their way"),
            (LATE, "the generator turned to them only when --timeout was over"),
        ):
            if count := measured.errors[kind]:
                yield (
                    kind,
                    f"{count:,} requests were not sent: {why}. They count as errors, and have no latency.",
                )
        sent = {kind: n for kind, n in measured.errors.items() if kind not in (NOT_SENT, LATE)}
        if late := {kind: n for kind, n in sent.items() if waited(kind)}:
            yield (
                "failed",
                f"Failed requests that waited count in the percentiles with the time that they did: "
                f"{', '.join(counted(late))}.",
            )
        if refused := {kind: n for kind, n in sent.items() if not waited(kind)}:
            yield (
                "refused",
                f"Refused requests have no part in the percentiles, which are of the others alone: "
                f"{', '.join(counted(refused))}.",
            )

    def _of_answers(self) -> Iterator[tuple[str, str]]:
        """What is odd about them."""
        measured = self.measured
        if measured.degraded:
            stores = ", ".join(counted(measured.degraded))
            yield "degraded", f"Degraded answers, by the store that failed: {stores}."
        if len(measured.versions) > 1:
            yield "versions", f"More than one version answered: {', '.join(counted(measured.versions))}."
        of = {"items": measured.candidates, "users": measured.answered}
        for table, unknown in measured.defaults.items():
            # Ranked as average ones: no load like the real one.
            if of.get(table) and unknown > SHED * of[table]:
                share = f"{unknown / of[table]:.0%} of the {table}"
                yield table, f"{share} are unknown to the service: name its own by --{table}."


def _samples(percentile: float) -> float:
    """How many samples carry a percentile."""
    return BEYOND / (1 - percentile / 100)


def _is_shed(kind: str) -> bool:
    return kind in (TIMEOUT, NOT_SENT) or kind.startswith(("429", "503", "504"))
