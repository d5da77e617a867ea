"""Exporting a model anew with the graphs that it has, which cost seconds to make."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from service.bundle.graphs import ITEM_INT8, RANK_INT8
from tests.training.worlds import Exported
from training.export import export
from training.trained import Trained


def export_again(exported: Exported, trained: Trained, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`export` of a model of the same weights; all but its graphs is made and proven anew."""
    files = [path for path in exported.folder.glob("*.onnx") if path.name not in (RANK_INT8, ITEM_INT8)]
    graphs = [(path.stem, onnx.load(path)) for path in files]
    monkeypatch.setattr("training.export._graphs", lambda *_: iter(graphs))
    return export(trained, models, "v1")
