"""What a worker does next to come from what is to what should be: a pure function.

Nothing is remembered between two steps. What `deployment.json` no longer names is let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.bundle.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a version into memory."""

    version: str


@dataclass(frozen=True, slots=True)
class Move:
    """Let a ranker serve with a version that is in memory."""

    ranker: str
    version: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a ranker."""

    ranker: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Let a version die with its last lease."""

    version: str


Action = Load | Move | Drop | Retire


@dataclass(frozen=True, slots=True)
class Local:
    """What a worker has come to."""

    serving: Mapping[str, str]
    """ranker -> version"""
    ready: frozenset[str]
    """versions in memory that may serve"""
    failed: frozenset[str] = frozenset()
    """versions that could not be loaded when they were last tried"""
    due: frozenset[str] = frozenset()
    """those of them that are worth another try by now"""
    loading: str | None = None
    retiring: int = 0
    """versions retired but still in memory"""


def plan(desired: Deployment, local: Local) -> Action | None:
    """The next step; None where there is nothing to do but wait.

    Loads the new before it retires the old, and holds one version more than it serves with, never two: a
    further one waits until a retired one is gone. A ranker whose version cannot be loaded goes on with what
    it serves with; one that serves with nothing yet takes its previous version. What is deployed is tried
    again when it is due and nothing else is to be loaded; what is staged is not, as its operation is refused.
    """
    targets = {name: _target(name, desired, local) for name in desired.rankers}
    for name, version in targets.items():
        if version in local.ready and version != local.serving.get(name):
            return Move(name, version)
    for name in local.serving.keys() - targets.keys():
        return Drop(name)
    # What must serve, then what is staged, in the order of the operations: the same in every worker, or two
    # operations of which each waits for the memory that the other one holds would wait for ever.
    operations = sorted(desired.rankers.values(), key=lambda ranker: ranker.operation)
    needed = [
        version for version in (*targets.values(), *(ranker.staged for ranker in operations)) if version
    ]
    missing = [version for version in needed if version not in local.ready | local.failed]
    served = max(1, len(set(local.serving.values())), len({ranker.version for ranker in operations} - {None}))
    if missing and len(local.ready) + local.retiring > served:
        needed = needed[: needed.index(missing[0])]  # no room for it: what is less urgent gives way
    for version in local.ready.difference(needed, local.serving.values()):
        return Retire(version)
    wanted = missing or [ranker.version for ranker in operations if ranker.version in local.due]
    if wanted and local.loading is None and len(local.ready) + local.retiring <= served:
        return Load(wanted[0])
    return None


def _target(name: str, desired: Deployment, local: Local) -> str | None:
    """The version that a ranker should serve with here and now."""
    ranker = desired.rankers[name]
    if ranker.version is None or ranker.version not in local.failed:
        return ranker.version
    return local.serving.get(name, ranker.previous)
