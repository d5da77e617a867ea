"""The least that is a bundle."""

from collections.abc import Callable
from pathlib import Path

from service.bundle.fusion import Factor, FusionFormula, Group
from service.bundle.manifest import Manifest, TaskSpec
from service.bundle.schema import FeatureSchema

FILES = {"rank.onnx": b"graph" * 50_000, "weights.bin": bytes(range(256)) * 4_000, "golden.json": b"[]"}


def manifest(version: str) -> Manifest:
    """The least that a bundle can claim."""
    return Manifest(
        version=version,
        created="2024-05-01T00:00:00Z",
        architecture="mmoe",
        tasks=(TaskSpec(name="click", kind="binary", event="click"),),
        features=FeatureSchema(features=()),
        state=(),
        user_state=(),
        fusion=FusionFormula(groups=(Group(factors=(Factor(task="click"),)),)),
        files={},
        metrics={"test": {"click": {"auc": None}}},
    )


def filling(version: str) -> Callable[[Path], Manifest]:
    """Puts the files of a bundle where it is told."""

    def fill(folder: Path) -> Manifest:
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
        return manifest(version)

    return fill


def left_over(models: Path) -> list[str]:
    """Whatever no reader looks at, but the lock."""
    return [path.name for path in models.iterdir() if path.name.startswith(".") and path.name != ".lock"]
