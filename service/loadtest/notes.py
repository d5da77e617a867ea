"""What to make of a run, in plain words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from service.loadtest.histogram import BEYOND, PERCENTILES
from service.loadtest.measured import NOT_SENT, SAMPLES, TIMEOUT, Measured, counted
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
    def overload(self) -> str | None:
        """Whether the service can't keep up with the load."""
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
        if not reasons:
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

    def notes(self) -> list[str]:
        """All that a reader of the figures must know."""
        measured, latency = self.measured, self.measured.latency
        found = [self.overload, self.generator_bound]
        if self.missed:
            found.append(f"The {self.missed}.")
        if thin := [
            f"p{q:g} (from {BEYOND / (1 - q / 100):,.0f} on)" for q in PERCENTILES if not latency.carries(q)
        ]:
            found.append(
                f"{latency.count:,} samples are too few for {', '.join(thin)}: fewer than {BEYOND} lie "
                "beyond, and the figure is chance. Run longer."
            )
        if (waited := measured.queueing.ms(99)) > QUEUED * latency.ms(99):
            found.append(
                f"Much of the latency is the wait for a connection (p99 {waited:.1f} ms): all were in use. "
                "Where callers have more of them, raise --connections."
            )
        if measured.errors[NOT_SENT]:
            found.append(
                f"{measured.errors[NOT_SENT]:,} requests were not sent: as many as --in-flight allows were "
                "already on their way. They count as errors, and have no latency."
            )
        if measured.errors[TIMEOUT]:
            found.append("Requests that timed out count in the percentiles with the time that was waited.")
        if measured.degraded:
            found.append(
                f"Degraded answers, by the store that failed: {', '.join(counted(measured.degraded))}."
            )
        if len(measured.versions) > 1:
            found.append(f"More than one version answered: {', '.join(counted(measured.versions))}.")
        return [note for note in [*found, *self._strangers()] if note]

    def _strangers(self) -> list[str]:
        """Ids that the service does not know are ranked as average ones: no load like the real one."""
        of = {"items": self.measured.candidates, "users": self.measured.answered}
        return [
            f"{unknown / of[table]:.0%} of the {table} are unknown to the service: name its own by --{table}."
            for table, unknown in self.measured.defaults.items()
            if of.get(table) and unknown > SHED * of[table]
        ]


def _is_shed(kind: str) -> bool:
    return kind in (TIMEOUT, NOT_SENT) or kind.startswith(("429", "503", "504"))
