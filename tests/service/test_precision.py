"""float32 or int8: chosen by time, once a host, and only a graph that proves itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal

import onnx
import pytest
from onnx import numpy_helper

from service.budget import enough
from service.bundle.deployment import this_host
from service.bundle.errors import BundleError
from service.bundle.graphs import RANK_INT8
from service.bundle.manifest import Int8, Manifest, Precision
from service.bundle.store import locked, verify
from service.engine import EngineOptions
from service.model import Model, ModelOptions
from service.precision import ROUNDS, Chosen, choose, kept, measure, settle
from service.proof import check_golden
from tests.resealed import reseal
from tests.tiny import Tiny, write_tiny

OPTIONS = ModelOptions(EngineOptions(provider="cpu", max_rows=64), max_batch_rows=64)
INT8 = Int8(tolerance=1e-3, kendall_tau=1.0, ndcg=1.0)
GRAPH = "a" * 64


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A bundle without int8."""
    return write_tiny(tmp_path_factory.mktemp("models"), "v1")


@pytest.fixture
def folder(plain: Tiny, tmp_path: Path) -> Path:
    """A copy that has int8, whose graph is nearly that of float32."""
    copy = Path(shutil.copytree(plain.folder, tmp_path / "v1"))
    shift(copy, 1e-4)
    reseal(copy, vouch)
    return copy


def shift(folder: Path, by: float) -> None:
    """Make the int8 graph of rank.onnx, its numbers a little off."""
    model = onnx.load(folder / "rank.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values * (1 + by)).astype(values.dtype), tensor.name))
    onnx.save_model(model, folder / RANK_INT8)


def vouch(manifest: dict[str, Any]) -> None:
    """Say in the manifest that the graph is there; `reseal` knows the checksum of what it lists alone."""
    manifest["int8"] = INT8.model_dump()
    manifest["files"][RANK_INT8] = GRAPH


def loaded(folder: Path, precision: Precision | Literal["auto"]) -> Chosen:
    """What a model of the bundle is ranked in."""
    if RANK_INT8 in {path.name for path in folder.iterdir()}:
        reseal(folder)
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(folder, replace(OPTIONS, precision=precision), executor)
        model.close()
        return model.precision


def test_a_setting_is_obeyed(folder: Path) -> None:
    """Nothing is measured, and nothing kept, where somebody says which."""
    assert loaded(folder, "float32") == Chosen(precision="float32")
    assert loaded(folder, "int8") == Chosen(precision="int8")
    assert not (folder.parent / ".precision").exists()


def test_what_is_measured_is_kept_for_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second load goes by the file of the first one, and measures nothing."""
    first = loaded(folder, "auto")
    monkeypatch.delattr("service.trial.settle")
    assert first.float32_ms is not None
    assert first.int8_ms is not None
    assert (folder.parent / ".precision" / this_host() / "v1.json").is_file()
    assert loaded(folder, "auto") == first


@pytest.mark.parametrize("rows", [500, 1500])
def test_it_is_tried_with_a_small_table(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Before the state of the version itself is filled; what the table cannot keep is computed on the way."""
    monkeypatch.setattr("service.trial.TABLE_ROWS", rows)
    monkeypatch.setattr("service.trial.enough", lambda items, row, *_: enough(items, row, 16, 20))
    modes: list[str] = []

    def check(*of_engine: Any) -> Any:
        modes.append(of_engine[-1].state.mode)
        return check_golden(*of_engine)

    monkeypatch.setattr("service.trial.check_golden", check)
    assert loaded(folder, "auto").float32_ms is not None
    assert modes == ["on_demand"]


def test_what_was_right_once_is_not_believed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A host that has measured, and now computes otherwise: golden scores are missed, and float32 serves."""
    reseal(folder)
    assert Machine(float32_s=2.0).settle(folder, verify(folder)).precision == "int8"
    kept_before = (folder.parent / ".precision" / this_host() / "v1.json").read_text(encoding="utf-8")
    tight = INT8.model_copy(update={"tolerance": 1e-9})
    reseal(folder, lambda manifest: manifest.update(int8=tight.model_dump()))
    with ThreadPoolExecutor(1) as executor:
        model = Model.load(folder, OPTIONS, executor)
        model.close()
    assert model.precision == Chosen(precision="float32")
    assert "v1 is ranked in float32: in int8, golden request 0" in caplog.text
    assert (folder.parent / ".precision" / this_host() / "v1.json").read_text(encoding="utf-8") == kept_before


def test_a_measured_float32_is_proven_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its golden scores are missed nothing else is left to try: it is refused at once."""
    reseal(folder)
    measured = Machine(int8_s=2.0).settle(folder, verify(folder))
    assert (measured.precision, measured.float32_ms) == ("float32", 1000.0)
    reseal(folder, lambda manifest: manifest.update(tolerance=1e-12))
    tried: list[str] = []

    def check(*of_engine: Any) -> Any:
        tried.append(of_engine[-1].precision)
        return check_golden(*of_engine)

    monkeypatch.setattr("service.model.check_golden", check)
    with pytest.raises(BundleError, match=r"apart from its golden scores"):
        loaded(folder, "auto")
    assert tried == ["float32"]


def test_a_manifest_that_lists_no_graph_has_no_int8(plain: Tiny, tmp_path: Path) -> None:
    """Whatever else it says of one."""
    copy = Path(shutil.copytree(plain.folder, tmp_path / "v1"))
    reseal(copy, lambda manifest: manifest.update(int8=INT8.model_dump()))
    assert loaded(copy, "auto") == Chosen(precision="float32")
    with pytest.raises(BundleError, match=r"v1 has no rank.int8.onnx"):
        loaded(copy, "int8")


def test_a_bundle_without_it_is_ranked_in_float32(plain: Tiny) -> None:
    """Auto takes what there is; who asks for int8 is told that there is none."""
    assert loaded(plain.folder, "auto") == Chosen(precision="float32")
    with pytest.raises(BundleError, match=r"v1 has no rank.int8.onnx, and precision is int8; set it to auto"):
        loaded(plain.folder, "int8")


def test_a_graph_of_other_scores_is_not_used(folder: Path) -> None:
    """Golden scores are held against int8's own tolerance; where they are missed float32 serves, as it is."""
    before = loaded(folder, "float32")
    shift(folder, 0.5)
    with pytest.raises(BundleError, match=r"apart from its golden scores, more than 1e-03"):
        loaded(folder, "int8")
    assert loaded(folder, "auto") == before == Chosen(precision="float32")
    assert not (folder.parent / ".precision").exists()


def test_a_graph_that_is_none_is_refused(folder: Path) -> None:
    """Cut off, and vouched for: the reason names the file."""
    (folder / RANK_INT8).write_bytes((folder / RANK_INT8).read_bytes()[:100])
    with pytest.raises(BundleError, match=r"rank.int8.onnx cannot be read"):
        loaded(folder, "auto")


@pytest.mark.parametrize(
    ("float32_ms", "int8_ms", "precision"),
    [(2.0, 1.0, "int8"), (1.0, 2.0, "float32"), (1.0, 0.97, "float32")],
)
def test_int8_must_be_faster_by_a_margin(float32_ms: float, int8_ms: float, precision: Precision) -> None:
    """What is as fast is better in float32."""
    found = choose({"float32": float32_ms, "int8": int8_ms})
    assert found == Chosen(precision=precision, float32_ms=float32_ms, int8_ms=int8_ms)


def test_both_are_measured_in_turns() -> None:
    """A run of each, again and again, and one of each before, which does not count."""
    ran: list[str] = []
    took = measure({"float32": lambda: ran.append("a"), "int8": lambda: ran.append("b")})
    assert "".join(ran) == "ab" * (1 + ROUNDS)
    assert took.keys() == {"float32", "int8"}


@pytest.fixture
def manifest(plain: Tiny) -> Manifest:
    """Of a version with an int8 graph."""
    return plain.manifest.model_copy(update={"files": {RANK_INT8: GRAPH}, "int8": INT8})


class Machine:
    """Takes the seconds that it is told to in each precision, by a clock of its own."""

    def __init__(self, float32_s: float = 1.0, int8_s: float = 1.0, then: Callable[[], object] = int) -> None:
        self.runs: dict[Precision, Callable[[], object]] = {
            "float32": partial(self._run, float32_s),
            "int8": partial(self._run, int8_s),
        }
        self.then = then
        self.now = 0.0

    def _run(self, seconds: float) -> None:
        self.then()
        self.now += seconds

    def settle(self, folder: Path, manifest: Manifest) -> Chosen:
        """What a worker on it settles on."""
        return settle(folder, manifest, self.runs, lambda: self.now)


def test_the_first_to_have_measured_is_right(manifest: Manifest, tmp_path: Path) -> None:
    """Of two that measure at the same time and do not agree, the later one goes by what it finds."""
    first = Machine(float32_s=2.0)
    overtaken = Machine(int8_s=2.0, then=lambda: first.settle(tmp_path / "v1", manifest))
    assert overtaken.settle(tmp_path / "v1", manifest).precision == "int8"
    assert Machine().settle(tmp_path / "v1", manifest).precision == "int8"


def test_of_two_that_write_one_waits(manifest: Manifest, tmp_path: Path) -> None:
    """Whoever comes to the lock later looks again before it writes."""
    Machine(float32_s=2.0).settle(tmp_path / "other" / "v1", manifest)
    measured = Event()
    later = Machine(int8_s=2.0, then=measured.set)
    with ThreadPoolExecutor(1) as executor:
        with locked(tmp_path):
            settling = executor.submit(later.settle, tmp_path / "v1", manifest)
            measured.wait()
            assert wait([settling], timeout=0.3).not_done
            shutil.copytree(tmp_path / "other" / ".precision", tmp_path / ".precision")
        assert settling.result().precision == "int8"


def test_what_cannot_be_kept_is_not_used(
    folder: Path, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk refuses no version: it serves in float32, which no other worker contradicts."""
    (folder.parent / ".precision").symlink_to(folder / "nowhere")
    assert Machine(float32_s=2.0).settle(folder, manifest) == Chosen(precision="float32")
    assert "v1 is ranked in float32: what is faster cannot be kept:" in caplog.text
    assert loaded(folder, "auto") == Chosen(precision="float32")


@pytest.mark.parametrize("spoil", [lambda text: text.replace(GRAPH, "b" * 64), lambda text: text[:20]])
def test_what_is_of_another_graph_or_cut_off_is_measured_anew(
    manifest: Manifest, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    """A version of the same name, written anew, or a file that says nothing."""
    Machine().settle(tmp_path / "v1", manifest)
    path = tmp_path / ".precision" / this_host() / "v1.json"
    sound = path.read_text(encoding="utf-8")
    path.write_text(spoil(sound), encoding="utf-8")
    assert kept(tmp_path / "v1", manifest) is None
    Machine().settle(tmp_path / "v1", manifest)
    assert GRAPH in path.read_text(encoding="utf-8")
