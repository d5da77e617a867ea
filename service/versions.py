"""Every version in the models folder: what it claims, and what the workers have made of it. For operators.

All of it is read from the folder, so the command line says the same as any worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from service.bundle import deployment, store
from service.bundle.deployment import Deployment, WorkerStatus
from service.bundle.errors import BundleError
from service.bundle.fusion import FusionFormula
from service.bundle.manifest import Metrics, TaskSpec
from service.errors import UnknownVersion

State = Literal["serving", "ready", "failed", "stored", "broken"]


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Version(_Shown):
    """A version in a line."""

    version: str
    state: State
    """The most that a live worker has made of it: serving a ranker, ready in memory, failed to load; stored
    where none has tried, broken where its manifest cannot be read."""
    rankers: list[str] = []
    """Rankers deployed with it."""
    created: str | None = None
    architecture: str | None = None
    tasks: list[str] = []
    bytes: int = 0
    """On disk."""
    problem: str | None = None
    """Why it is broken or failed."""


class FeatureLine(_Shown):
    """A feature in a line."""

    name: str
    kind: str
    scope: str
    """What it depends on: user, context, item, live or cross."""


class VersionDetail(Version):
    """What a version claims about itself."""

    task_specs: list[TaskSpec]
    fusion: FusionFormula
    """Its own formula; a ranker can be deployed with another."""
    features: list[FeatureLine]
    files: dict[str, int]
    """File -> bytes."""
    metrics: dict[str, dict[str, Metrics]]
    """Offline."""
    training: dict[str, JsonValue]
    """The config it was trained with."""
    commit: str | None
    libraries: dict[str, str]


class Versions:
    """The versions of one models folder."""

    def __init__(self, models: Path) -> None:
        self._models = models

    def all(self) -> list[Version]:
        """Every version, by name. Blocks on the disk.

        Raises:
            BundleError: deployment.json cannot be read.
        """
        desired, workers = deployment.read(self._models), deployment.live(self._models)
        lines = []
        for version in store.versions(self._models):
            with suppress(FileNotFoundError):  # deleted meanwhile
                lines.append(self._line(version, desired, workers))
        return lines

    def one(self, version: str) -> VersionDetail:
        """All that a version claims. Blocks on the disk.

        Raises:
            UnknownVersion: there is none of that name.
            BundleError: its manifest, or deployment.json, cannot be read.
        """
        folder = self.folder(version)
        try:
            line = self._line(version, deployment.read(self._models), deployment.live(self._models))
            files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        except FileNotFoundError:  # deleted meanwhile
            raise UnknownVersion(version, store.versions(self._models)) from None
        manifest = store.read_manifest(folder)
        schema = manifest.features
        return VersionDetail(
            **line.model_dump(),
            task_specs=list(manifest.tasks),
            fusion=manifest.fusion,
            features=[
                FeatureLine(name=feature.name, kind=feature.kind, scope=schema.scope(feature))
                for feature in schema.features
            ],
            files=files,
            metrics=manifest.metrics,
            training=manifest.training,
            commit=manifest.commit,
            libraries=manifest.libraries,
        )

    def folder(self, version: str) -> Path:
        """The bundle's folder. Raises UnknownVersion where there is none."""
        known = store.versions(self._models)
        if version not in known:
            raise UnknownVersion(version, known)
        return self._models / version

    def _line(self, version: str, desired: Deployment, workers: Sequence[WorkerStatus]) -> Version:
        rankers = [name for name, ranker in desired.rankers.items() if ranker.version == version]
        size = sum(path.stat().st_size for path in (self._models / version).iterdir())
        try:
            manifest = store.read_manifest(self._models / version)
        except BundleError as error:
            return Version(version=version, state="broken", rankers=rankers, bytes=size, problem=str(error))
        return Version(
            version=version,
            state=_state(version, workers),
            rankers=rankers,
            created=manifest.created,
            architecture=manifest.architecture,
            tasks=[task.name for task in manifest.tasks],
            bytes=size,
            problem=next(_problems(version, workers), None),
        )


def _state(version: str, workers: Sequence[WorkerStatus]) -> State:
    if any(version in worker.rankers.values() for worker in workers):
        return "serving"
    if any(version in worker.ready for worker in workers):
        return "ready"
    return "failed" if any(version in worker.failed for worker in workers) else "stored"


def _problems(version: str, workers: Sequence[WorkerStatus]) -> Iterator[str]:
    return (worker.failed[version] for worker in workers if version in worker.failed)
