"""Whether CUDA can be used, by files as packages and systems have them."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from service import cuda
from service.cuda import PROVIDER, linked

NAMED = ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13")


def site(folder: Path, packaged: Sequence[str] = (), named: Sequence[str] | None = NAMED) -> Path:
    """Where onnxruntime lies, with its CUDA provider (None: without), and CUDA's libraries beside it."""
    provider = folder / "onnxruntime" / PROVIDER
    provider.parent.mkdir(parents=True)
    if named is not None:
        provider.write_bytes(b"\x7fELF\0" + b"\0".join(name.encode() for name in (*named, "libcuda.so.1")))
    (folder / "nvidia/cu13/lib").mkdir(parents=True)
    for name in packaged:
        (folder / "nvidia/cu13/lib" / name).touch()
    return folder / "onnxruntime"


def has_none(library: str) -> str | None:
    """A system without CUDA."""
    return None


@pytest.mark.parametrize(
    ("packaged", "named", "expected"),
    [
        (NAMED, NAMED, True),  # rankserve[cuda]
        ((), NAMED, False),  # the driver alone
        (NAMED[:-1], NAMED, False),
        ([name.replace("13", "12") for name in NAMED], NAMED, False),  # those of another version
        (NAMED, None, False),  # an onnxruntime for the CPU
        (NAMED, (), True),  # a provider that brings its own
    ],
)
def test_packages_have_what_the_provider_names(
    tmp_path: Path, packaged: Sequence[str], named: Sequence[str] | None, expected: bool
) -> None:
    """All of it, in the version that it is linked with; the driver is no package."""
    assert linked(site(tmp_path, packaged, named), has_none) == expected


@pytest.mark.parametrize(("version", "expected"), [("13", True), ("12", False)])
def test_the_system_may_have_them(tmp_path: Path, version: str, expected: bool) -> None:
    """As images with CUDA do."""
    system = {"cudart": version, "cublas": version, "cublasLt": version, "curand": "10"}
    assert linked(site(tmp_path), lambda name: f"lib{name}.so.{system[name]}") == expected


def test_an_empty_provider_is_none(tmp_path: Path) -> None:
    """As an installation that broke off leaves it."""
    folder = site(tmp_path, NAMED)
    (folder / PROVIDER).write_bytes(b"")
    assert not linked(folder, has_none)


def test_onnxruntime_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that an import would find."""
    folder = site(tmp_path, NAMED)
    (folder / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cuda.usable()


def test_without_onnxruntime_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that does operations only."""
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [])
    assert not cuda.usable()
