"""What a service holds in memory: as it says of the items' state, and as the system sees its processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from benchmarks.running import Service
from benchmarks.serving.servers import tree

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Held:
    """One look at a service.

    Attributes:
        state: MiB that the items' state may take in all workers together, by version in memory.
        modes: `resident` or `on_demand`, by version.
        rss: MiB of all its processes, what they share counted in each.
        pss: MiB of them, what they share counted once.
    """

    state: Mapping[str, float]
    modes: Mapping[str, str]
    rss: float
    pss: float

    @property
    def state_mib(self) -> float:
        """Of all versions together."""
        return sum(self.state.values())


def held(service: Service) -> Held:
    """A look at a service; blocks."""
    states = {
        line["version"]: line["item_state"]
        for line in service.ask("GET", "/v1/models").raise_for_status().json()["models"]
        if line["item_state"] is not None
    }
    rss, pss = 0.0, 0.0
    for process in tree(service.process.pid):
        with suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            rss, pss = rss + memory.rss / MIB, pss + memory.pss / MIB
    return Held(
        {version: state["bytes"] / MIB for version, state in states.items()},
        {version: state["mode"] for version, state in states.items()},
        rss,
        pss,
    )


def within(looks: Sequence[Held], budget_mib: float) -> bool:
    """Was the state never more than the budget?"""
    return all(look.state_mib <= budget_mib for look in looks)


def told(looks: Sequence[Held], budget_mib: float) -> str:
    """The most that was seen, beside the budget, and every look, in four lines."""
    most = max(look.state_mib for look in looks)
    kept = "never above it" if within(looks, budget_mib) else "ABOVE IT"
    grown = max(look.pss for look in looks) - looks[0].pss
    return (
        f"{len(looks)} looks: items' state at most {most:,.1f} MiB of a budget of {budget_mib:,.0f}, {kept}; "
        f"PSS of all processes {looks[0].pss:,.0f} MiB at first, at most {grown:+,.0f} from there\n"
        f"  state {_each(look.state_mib for look in looks)}\n"
        f"  PSS {_each(look.pss for look in looks)}\n"
        f"  RSS {_each(look.rss for look in looks)}"
    )


def _each(values: Iterable[float]) -> str:
    return " ".join(f"{value:.0f}" for value in values)
