"""What export writes, and what it refuses to write."""

from __future__ import annotations

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from service.bundle.columns import Numbers
from service.bundle.errors import BundleError, FusionError
from service.bundle.fusion import FusionFormula
from service.bundle.golden import agree, read_golden
from service.bundle.graphs import RANK_CPU
from service.bundle.manifest import TOLERANCE
from service.bundle.snapshot import table_file, write_table
from service.bundle.store import read_manifest, versions
from service.bundle.table import Table
from service.engine import EngineOptions
from service.model import Model, ModelOptions
from tests.training import worlds
from tests.training.worlds import Exported
from training.export import export
from training.export.parity import PARITY_ROWS, check_parity
from training.models import MultiTaskModel
from training.trained import torch_scores

TABLE_BYTES = 20_001 * 16 * 4
"""at least: the embedding rows of the hashed feature"""


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Exported:
    """A bundle to spoil."""
    folder = Path(shutil.copytree(exported.folder, tmp_path / "copy"))
    return replace(exported, folder=folder)


def test_parity_is_measured_at_all_sizes(exported: Exported) -> None:
    """The greatest disagreement a size, within the tolerance."""
    found = check_parity(exported.folder, exported.trained, exported.manifest)
    assert tuple(found) == PARITY_ROWS == (1, 7, 1000)
    assert all(apart <= TOLERANCE for apart in found.values())


@pytest.mark.parametrize("graph", ["flat", "user", "item", "rank"])
def test_a_graph_of_other_weights_is_refused(copied: Exported, graph: str) -> None:
    """One weight of one graph a little off, and there is no bundle; the message says what disagrees."""
    path = copied.folder / f"{graph}.onnx"
    model = onnx.load(path, load_external_data=False)
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    inside = [tensor for tensor in floats if tensor.data_location != onnx.TensorProto.EXTERNAL]
    largest = max(inside, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) + np.float32(0.01), largest.name))
    onnx.save_model(model, path)
    named = "flat" if graph == "flat" else r"user, item and rank\.onnx.*"
    with pytest.raises(BundleError, match=rf"^{named} and torch disagree: \w+ is \S+ apart at \d+ rows$"):
        check_parity(copied.folder, copied.trained, copied.manifest)


def test_users_that_are_mixed_up_are_refused(copied: Exported) -> None:
    """Requests of several users in one run: each must get its own user's part."""
    path = copied.folder / "user.onnx"
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    ends = {"starts": [-1], "ends": [-(2**31)], "axes": [0], "steps": [-1]}
    graph.initializer.extend(numpy_helper.from_array(np.array(at), name) for name, at in ends.items())
    for output in graph.output:
        maker = next(node for node in graph.node if output.name in node.output)
        maker.output[0] = f"{output.name}_in_order"
        graph.node.append(helper.make_node("Slice", [maker.output[0], *ends], [output.name]))
    onnx.save_model(model, path)
    with pytest.raises(BundleError, match=r"^user, item and rank.onnx, with other requests, and torch disag"):
        check_parity(copied.folder, copied.trained, copied.manifest)


@pytest.mark.parametrize("spoiled", ["rank.onnx", RANK_CPU])
def test_each_graph_that_ranks_must_tell_users_apart(copied: Exported, spoiled: str) -> None:
    """By itself: one that takes all candidates of a run for the first one's user is refused by its name."""
    model = onnx.load(copied.folder / "rank.onnx", load_external_data=False)
    shutil.copy(copied.folder / "rank.onnx", copied.folder / RANK_CPU)
    graph, first = model.graph, {"at": [0], "until": [1], "along": [0]}
    for name in copied.manifest.user_state:
        for node in graph.node:
            node.input[:] = [f"{name}_first" if each == name else each for each in node.input]
        graph.node.insert(0, helper.make_node("Slice", [name, *first], [f"{name}_first"]))
    graph.initializer.extend(numpy_helper.from_array(np.array(at), name) for name, at in first.items())
    onnx.save_model(model, copied.folder / spoiled)
    with pytest.raises(BundleError, match=rf"^user, item and {spoiled}, with other requests, and torch"):
        check_parity(copied.folder, copied.trained, copied.manifest)


def test_a_second_graph_that_ranks_is_written_where_it_is_another(exported: Exported) -> None:
    """No layer of this model is large: a CPU ranks by what any other runtime does."""
    assert not (exported.folder / RANK_CPU).exists()


def test_a_table_that_was_written_wrong_is_refused(copied: Exported) -> None:
    """The service's encoder is made of what was written, and held against the trainer's of the log."""
    table = copied.trained.encoder.tables["user"]
    ages = table.columns["age"]
    assert isinstance(ages, Numbers)
    older = Table("user", table.keys, {**table.columns, "age": Numbers(ages.values + 1)})
    write_table(copied.folder / table_file("user"), older)
    with pytest.raises(BundleError, match="age of a request is not encoded as that of the log"):
        check_parity(copied.folder, copied.trained, copied.manifest)


def test_a_model_of_other_weights_is_refused(exported: Exported) -> None:
    """Graphs of weights that the model no longer has."""
    model = copy.deepcopy(exported.trained.model)
    with torch.no_grad():
        for projection in model.projections.values():
            projection.weight.add_(0.01)
    with pytest.raises(BundleError, match="and torch disagree"):
        check_parity(exported.folder, replace(exported.trained, model=model), exported.manifest)


def test_large_weights_are_on_disk_once(exported: Exported) -> None:
    """All four graphs refer to the embedding table in weights.bin; none has it inside."""
    size = (exported.folder / "weights.bin").stat().st_size
    assert TABLE_BYTES <= size < 1.1 * TABLE_BYTES
    for name in ("user", "item", "rank", "flat"):
        path = exported.folder / f"{name}.onnx"
        assert path.stat().st_size < 100_000
        graph = onnx.load(path, load_external_data=False).graph
        assert [tensor.data_location for tensor in graph.initializer].count(onnx.TensorProto.EXTERNAL) == 1


def test_a_service_proves_the_bundle_anew(exported: Exported) -> None:
    """It loads: checksums, graphs, state, and the golden scores through encoder and engine."""
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(exported.folder, ModelOptions(EngineOptions(provider="cpu")), executor)
        assert model.version == "v1"
        model.close()


def test_golden_scores_are_torchs(exported: Exported) -> None:
    """Read back from the files, encoded anew, scored by the torch model."""
    requests, expected = read_golden(exported.folder)
    for request, scores in zip(requests, expected, strict=True):
        found = torch_scores(exported.trained, request.encode(exported.trained.encoder))
        assert scores.keys() == found.keys()
        assert all(agree(found[task], values) for task, values in scores.items())


def test_the_manifest_accounts_for_the_run(exported: Exported) -> None:
    """Tasks, state, formula, config and versions, all of it readable again."""
    manifest = read_manifest(exported.folder)
    config = exported.trained.config
    assert manifest.architecture == config.model.name
    assert [task.name for task in manifest.tasks] == ["click", "like", "watch"]
    assert (manifest.tasks[1].given, manifest.tasks[2].event, manifest.tasks[2].unit) == (
        "click",
        "watch_s",
        "s",
    )
    assert manifest.features == exported.trained.encoder.schema
    assert manifest.fusion == config.fusion
    assert [name.removeprefix("user_") for name in manifest.user_state] == [
        array.name.removeprefix("item_") for array in manifest.state
    ]
    assert manifest.training["split"] == {"train_until": 20240502, "validate_until": 20240503}
    assert manifest.training["seed"] == exported.trained.seed == 0
    assert manifest.libraries.keys() >= {"torch", "onnx", "python"}
    assert {"user.onnx", "item.onnx", "rank.onnx", "flat.onnx", "weights.bin"} < manifest.files.keys()


def test_an_existing_version_is_refused(exported: Exported) -> None:
    """Before a graph is made, and with the bundle that is there left alone."""
    before = {path.name: path.stat().st_mtime_ns for path in exported.folder.iterdir()}
    with pytest.raises(BundleError, match="v1: this version exists"):
        export(exported.trained, exported.folder.parent, "v1")
    assert {path.name: path.stat().st_mtime_ns for path in exported.folder.iterdir()} == before


def test_a_formula_must_fit(exported: Exported, tmp_path: Path) -> None:
    """An attribute that items do not have is refused before anything is written."""
    formula = FusionFormula.parse({"groups": [{"factors": [{"item": "price", "default": 1}]}]})
    config = exported.trained.config.model_copy(update={"fusion": formula})
    with pytest.raises(FusionError, match="price"):
        export(replace(exported.trained, config=config), tmp_path / "models", "v1")
    assert not (tmp_path / "models").exists()


class Broken(MultiTaskModel):
    """A model that cannot be traced."""

    def user_side(self, index: Tensor, value: Tensor) -> dict[str, Tensor]:
        raise ArithmeticError("it broke")


def test_a_crash_leaves_nothing(tmp_path: Path) -> None:
    """No version, and no unfinished folder beside where it would have been."""
    trained = worlds.prepare(worlds.log(400), **worlds.QUICK).trained()
    trained.model.__class__ = Broken
    with pytest.raises(Exception, match="it broke"):
        export(trained, tmp_path, "v1")
    assert versions(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
