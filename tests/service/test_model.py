"""A model: a bundle that has proven itself, and every way in which one is refused."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.batcher import BatchRun
from service.bundle.errors import BundleError, FusionError
from service.bundle.fusion import FusionFormula
from service.bundle.golden import agree, read_golden, write_golden
from service.bundle.manifest import MANIFEST_FILE
from service.bundle.store import versions
from service.engine import EngineOptions
from service.errors import NotReady
from service.model import Model, ModelOptions
from tests.resealed import reseal
from tests.tiny import Tiny, write_tiny
from tests.tiny_features import tiny_requests

OPTIONS = ModelOptions(EngineOptions(provider="cpu", max_rows=64), max_batch_rows=64)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A bundle that is what it claims to be."""
    return write_tiny(tmp_path_factory.mktemp("models"), "v1")


@pytest.fixture
def folder(sound: Tiny, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    return Path(shutil.copytree(sound.folder, tmp_path / "v1"))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """The engine's one thread."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


def sessions() -> int:
    """How many onnxruntime sessions are alive."""
    gc.collect()
    return sum(type(thing) is ort.InferenceSession for thing in gc.get_objects())


def refused(folder: Path, reason: str) -> None:
    """The bundle cannot be loaded, for that reason."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(BundleError, match=reason):
        Model.load(folder, OPTIONS, executor)


async def test_a_loaded_model_ranks(sound: Tiny, executor: ThreadPoolExecutor) -> None:
    """Through its encoder and batcher, concurrently, every request gets its true scores."""
    runs: list[BatchRun] = []
    model = await asyncio.to_thread(Model.load, sound.folder, OPTIONS, executor, runs.append)
    assert (model.version, model.provider) == ("v1", "CPUExecutionProvider")
    assert model.formula == sound.manifest.fusion
    assert set(model.state.counts.values()) == {0}, "warm-up is no request"
    encoded = [request.encode(model.encoder) for request in tiny_requests()]
    deadline = asyncio.get_running_loop().time() + 30
    answers = await asyncio.gather(*(model.batcher.submit(entry, deadline) for entry in encoded))
    for entry, answer in zip(encoded, answers, strict=True):
        expected = sound.predict(entry)
        assert all(agree(answer.scores[task], expected[task]) for task in expected)
    assert sum(run.entries for run in runs) == len(encoded)
    assert all(run.entries == 1 or run.rows <= OPTIONS.max_batch_rows for run in runs)
    await model.drain()
    with pytest.raises(NotReady):
        await model.batcher.submit(encoded[0], deadline)
    model.close()


def test_a_formula_is_checked_against_the_model(sound: Tiny, executor: ThreadPoolExecutor) -> None:
    """Unknown tasks and unknown item attributes are refused by name."""
    model = Model.load(sound.folder, OPTIONS, executor)
    model.check(FusionFormula.parse({"groups": [{"factors": [{"task": "like"}]}]}))
    for factor in ({"task": "buy"}, {"item": "price", "default": 1.0}):
        with pytest.raises(FusionError, match=r"^(buy|price): unknown"):
            model.check(FusionFormula.parse({"groups": [{"factors": [factor]}]}))
    model.close()


def test_closing_gives_the_sessions_back(sound: Tiny, executor: ThreadPoolExecutor) -> None:
    """All three of them."""
    before = sessions()
    model = Model.load(sound.folder, OPTIONS, executor)
    assert sessions() == before + 3
    model.close()
    assert sessions() == before


def test_a_refused_bundle_leaves_no_session(folder: Path) -> None:
    """Whether the fault was found between the graphs, or after they had run."""
    before = sessions()
    flip(folder / "weights.bin", bit=7)
    reseal(folder)
    refused(folder, "apart from its golden scores")
    (folder / "item.onnx").write_bytes(b"garbage")
    reseal(folder)
    refused(folder, r"item\.onnx cannot be read")
    assert sessions() == before


@pytest.mark.parametrize("name", ["rank.onnx", "weights.bin", "items.npz", "vocabulary.npz", "golden.npz"])
def test_a_truncated_file_is_refused(folder: Path, name: str) -> None:
    """By its checksum, before anything is read from it."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    refused(folder, f"{name} was truncated or altered")


@pytest.mark.parametrize("name", ["user.onnx", "weights.bin", "users.npz", "golden.json"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    """By its name."""
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


def test_a_missing_manifest_or_bundle_is_refused(folder: Path) -> None:
    """Neither an empty folder nor none at all is a bundle."""
    (folder / MANIFEST_FILE).unlink()
    refused(folder, "manifest.json is missing")
    refused(folder.parent / "nowhere", "manifest.json is missing")


def test_one_flipped_bit_is_refused(folder: Path) -> None:
    """By its checksum."""
    flip(folder / "weights.bin", bit=6)
    refused(folder, r"weights\.bin was truncated or altered")


def flip(path: Path, bit: int) -> None:
    """Flip one bit in every number of the middle half: an exponent's at 6 is another magnitude altogether."""
    content = np.fromfile(path, np.uint8)
    quarter = len(content) // 16 * 4
    content[quarter + 3 : 3 * quarter : 4] ^= np.uint8(1 << bit)
    content.tofile(path)


@pytest.mark.parametrize("bit", [7, 0], ids=["signs", "magnitudes"])
def test_flipped_bits_that_a_checksum_vouches_for_are_refused(folder: Path, bit: int) -> None:
    """Only the golden scores can tell: the graphs load, run and give numbers."""
    flip(folder / "weights.bin", bit)
    reseal(folder)
    refused(folder, r"golden request \d: \w+ is \S+ apart from its golden scores, more than 1e-05")


def test_weights_of_another_version_are_refused(sound: Tiny, folder: Path, tmp_path: Path) -> None:
    """Sound in themselves, and not the ones that were exported with this item graph."""
    other = write_tiny(tmp_path / "others", "v2", seed=1)
    shutil.copy(other.folder / "rank.onnx", folder / "rank.onnx")
    reseal(folder)
    refused(folder, "apart from its golden scores")


def test_golden_scores_a_little_off_are_refused(tmp_path: Path) -> None:
    """Ten times the tolerance is enough."""
    refused(write_tiny(tmp_path, "v1", golden_error=1e-4).folder, "golden request 0: click is 1.0e-04 apart")


def test_golden_scores_of_other_tasks_are_refused(folder: Path) -> None:
    """A task that they leave out would go unproven."""
    requests, scores = read_golden(folder)
    write_golden(folder, requests, [{"click": by_task["click"]} for by_task in scores])
    reseal(folder)
    refused(folder, r"golden request 0 has the tasks \['click'\]; the model, \['click', 'like', 'watch'\]")


def test_golden_scores_within_the_tolerance_are_reproduced(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    """A last digit is no fault."""
    Model.load(write_tiny(tmp_path, "v1", golden_error=2e-6).folder, OPTIONS, executor).close()


def rename_task(manifest: dict[str, Any]) -> None:
    """The manifest claims another task than the graphs compute."""
    manifest["tasks"][1]["name"] = "love"


def test_a_wrong_task_name_is_refused(folder: Path) -> None:
    """Where the bundle's own formula reads it, and where only the graphs know better."""
    reseal(folder, rename_task)
    refused(folder, "the formula does not fit the bundle: like: unknown task")

    def without_formula(manifest: dict[str, Any]) -> None:
        manifest["fusion"] = {"groups": [{"factors": [{"task": "click"}]}]}

    reseal(folder, without_formula)
    refused(folder, r"outputs of rank\.onnx are .*'like'.*; the manifest states .*'love'")


SCHEMAS: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    (
        "rows",
        lambda f: f["fitted"]["vocabularies"]["video"].update(rows=7),
        "vocabulary of .* rows where the schema",
    ),
    ("edges", lambda f: f["fitted"]["edges"].update(hour=[1, 2]), "rows where the schema states"),
    ("kind", lambda f: _feature(f, "age").update(buckets=4), "has no fitted vocabulary"),
    (
        "width",
        lambda f: _feature(f, "recent").update(max_length=9),
        r"user_index is tensor\(int32\) \[0, 15\]",
    ),
    (
        "path",
        lambda f: _feature(f, "author_rate").update(source="author_stats.pace"),
        "is no column of table",
    ),
    ("scale", lambda f: f["fitted"]["scales"]["age"].update(mean=70.0), "apart from its golden scores"),
    ("order", lambda f: f["features"].insert(1, f["features"].pop(0)), "apart from its golden scores"),
    ("unknown", lambda f: _feature(f, "age").update(kind="age"), r"manifest\.json: features"),
]


def _feature(features: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(feature for feature in features["features"] if feature["name"] == name)
    return found


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in SCHEMAS], ids=[case[0] for case in SCHEMAS]
)
def test_a_wrong_schema_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """By the vocabularies, by the graphs' widths, and at the latest by the golden scores."""
    reseal(folder, lambda manifest: (change(manifest["features"]), None)[1])
    refused(folder, reason)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rank.onnx", b"garbage", r"rank\.onnx cannot be read"),
        ("user.onnx", b"", r"user\.onnx cannot be read"),
        ("items.npz", b"garbage", r"items\.npz cannot be read"),
        ("items.npz", b"PK\x03\x04garbage", r"items\.npz cannot be read"),
        ("vocabulary.npz", b"", r"vocabulary\.npz cannot be read"),
        ("golden.npz", b"PK\x03\x04garbage", "golden"),
        ("golden.npz", b"", "golden"),
        ("golden.json", b"[]", r"golden\.json holds no request"),
        ("golden.json", b"{", r"golden\.json cannot be read"),
        ("golden.json", b'[{"user_id": null, "item_ids": ["1"], "context": {"hour": "noon"}}]', "golden"),
        ("weights.bin", b"short", "cannot be read|cannot be computed"),
    ],
)
def test_files_that_are_something_else_are_refused(
    folder: Path, name: str, content: bytes, reason: str
) -> None:
    """Though the manifest vouches for them: a reason, and nothing worse."""
    (folder / name).write_bytes(content)
    reseal(folder)
    refused(folder, reason)


def test_golden_requests_that_cannot_be_encoded_are_refused(folder: Path) -> None:
    """A raw value of another kind than its feature's is told with its path."""
    requests = json.loads((folder / "golden.json").read_bytes())
    requests[1]["context"] = {"hour": "noon"}
    (folder / "golden.json").write_text(json.dumps(requests), encoding="utf-8")
    reseal(folder)
    refused(folder, r"golden request 1 cannot be encoded: context\.hour: expected a number")


def test_a_graph_that_breaks_on_a_golden_request_is_refused(folder: Path) -> None:
    """It loads, and has fewer embeddings than there are users: what onnxruntime said is the reason."""
    model = onnx.load(folder / "user.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "length":
                entry.value = str(int(entry.value) // tensor.dims[0])
                tensor.dims[0] = 1
    onnx.save_model(model, folder / "user.onnx")
    reseal(folder)
    refused(folder, "golden request 0 cannot be scored: .*out of data bounds")


def test_a_refused_bundle_is_left_as_it_was(folder: Path) -> None:
    """It may be looked at, and mended."""
    flip(folder / "weights.bin", bit=7)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused(folder, "truncated or altered")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert versions(folder.parent) == ["v1"]
