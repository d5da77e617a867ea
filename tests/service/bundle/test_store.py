"""Bundles on disk: proven byte by byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.bundle.errors import BundleError
from service.bundle.store import locate, read_manifest, replace, verify, versions, write
from tests.service.bundle.sound import FILES, filling, left_over, manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle."""
    return write(tmp_path, "v1", filling("v1"))


def refusal(folder: Path) -> str:
    """Why a bundle is refused."""
    with pytest.raises(BundleError) as raised:
        verify(folder)
    return str(raised.value)


def claim(folder: Path, **claims: Any) -> None:
    """Rewrite what the manifest says."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | claims))


def test_round_trip(bundle: Path) -> None:
    """What was written reads back, with a checksum for every file, and is all there is."""
    read = verify(bundle)
    assert read == manifest("v1").model_copy(update={"files": read.files})
    assert read.files.keys() == FILES.keys()
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.name in FILES} == FILES
    assert versions(bundle.parent) == ["v1"]
    assert left_over(bundle.parent) == []


def test_truncated(bundle: Path) -> None:
    """A file cut short is refused by name."""
    (bundle / "weights.bin").write_bytes(FILES["weights.bin"][:-1])
    assert "v1: weights.bin was truncated or altered" in refusal(bundle)


@pytest.mark.parametrize("name", FILES)
def test_bit_flipped(bundle: Path, name: str) -> None:
    """One bit of any file makes a bundle refused."""
    content = bytearray(FILES[name])
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    assert f"v1: {name} was truncated or altered" in refusal(bundle)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(bundle: Path, name: str) -> None:
    """A file that is listed and not there makes a bundle refused."""
    (bundle / name).unlink()
    assert f"v1: {name} is missing" in refusal(bundle)


def test_folder_for_a_file(bundle: Path) -> None:
    """A folder of a file's name is no file."""
    (bundle / "weights.bin").unlink()
    (bundle / "weights.bin").mkdir()
    assert "v1: weights.bin is missing" in refusal(bundle)


def test_unlisted_file(bundle: Path) -> None:
    """A file that nothing vouches for makes a bundle refused: a graph could refer to it."""
    (bundle / "extra.bin").write_bytes(b"x")
    assert "v1: extra.bin is not listed" in refusal(bundle)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b'{"format": 1, "version"', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "format None is unknown"),
        (b"{}", "format None is unknown"),
        (b'{"format": 2}', "format 2 is unknown; this program reads 1"),
        (b'{"format": true}', "format True is unknown"),
        (b'{"format": 1, "version": "v1"}', "created: Field required"),
    ],
)
def test_unreadable_manifest(bundle: Path, content: bytes, reason: str) -> None:
    """A manifest that is no manifest of ours is refused with the reason."""
    (bundle / "manifest.json").write_bytes(content)
    assert reason in refusal(bundle)


def test_no_manifest(bundle: Path) -> None:
    """A folder without a manifest is no version, and says so when read."""
    (bundle / "manifest.json").unlink()
    assert "v1: manifest.json is missing" in refusal(bundle)
    assert "nothing: manifest.json is missing" in refusal(bundle.parent / "nothing")
    assert "manifest.json is missing" in refusal(bundle / "rank.onnx")
    assert versions(bundle.parent) == []


def test_folder_for_a_manifest(bundle: Path) -> None:
    """What cannot be read says so."""
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").mkdir()
    assert "v1: manifest.json cannot be read: Is a directory" in refusal(bundle)


def test_renamed_folder(bundle: Path) -> None:
    """A bundle answers to its own name only."""
    assert "v2: manifest.json is of version 'v1'" in refusal(bundle.rename(bundle.with_name("v2")))


@pytest.mark.parametrize(
    "name", ["../v1/rank.onnx", "/etc/passwd", "..", "", ".hidden", "a/b", "manifest.json"]
)
def test_file_names_that_point_elsewhere(bundle: Path, name: str) -> None:
    """Only plain file names are read, whatever the manifest lists."""
    claim(bundle, files={name: "0" * 64})
    assert "is no plain file name" in refusal(bundle)


@pytest.mark.parametrize("version", ["..", "", ".hidden", "a/b", "/tmp", "v1/", "v1\n", "a\0b", "v" * 101])
def test_version_names_that_point_elsewhere(tmp_path: Path, version: str) -> None:
    """Only plain names are versions."""
    with pytest.raises(BundleError, match="is no version name"):
        locate(tmp_path, version)
    with pytest.raises(BundleError, match="is no version name"):
        write(tmp_path, version, filling(version))
    assert list(tmp_path.iterdir()) == []


def test_read_manifest_proves_nothing(bundle: Path) -> None:
    """The manifest alone is cheap to read, and says nothing of the files."""
    (bundle / "weights.bin").unlink()
    assert read_manifest(bundle).architecture == "mmoe"


def test_no_models_folder(tmp_path: Path) -> None:
    """A folder that is not there holds no version, and is made by the first."""
    assert versions(tmp_path / "models") == []
    verify(write(tmp_path / "models", "v1", filling("v1")))


def test_replace_is_whole(tmp_path: Path) -> None:
    """A replaced file holds the new content and leaves nothing beside it."""
    replace(tmp_path / "x", b"old")
    replace(tmp_path / "x", b"new", durable=False)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
