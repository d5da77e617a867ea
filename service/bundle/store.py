"""Bundles on disk: written whole or not at all, read with every checksum proven.

A bundle is the folder ``models/<version>/``. `write` fills a folder of another name and renames it once
everything in it has reached the disk, so a crash leaves a whole bundle or none. `verify` trusts no byte that
`manifest.json` does not vouch for. Versions are opaque names: nothing here compares them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from service.bundle.errors import BundleError
from service.bundle.manifest import FORMAT, MANIFEST_FILE, Manifest

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What a version, a ranker or a bundle's file may be called: one plain path segment, not hidden."""

_UNFINISHED = ".unfinished-"


def versions(models: Path) -> list[str]:
    """The versions in the folder, by name; whether each is sound only `verify` tells."""
    if not models.is_dir():
        return []
    return sorted(
        path.name for path in models.iterdir() if _is_name(path.name) and (path / MANIFEST_FILE).is_file()
    )


def locate(models: Path, version: str) -> Path:
    """The folder of a version, which need not exist.

    Raises:
        BundleError: the name is not a plain one, so it could point elsewhere.
    """
    if not _is_name(version):
        raise BundleError(
            f"{version!r} is no version name: use letters, digits, '.', '_' and '-', not hidden"
        )
    return models / version


def read_manifest(folder: Path) -> Manifest:
    """What a bundle claims about itself, with nothing proven but its form.

    Raises:
        BundleError: there is no manifest, or this program cannot read it; with the reason.
    """
    try:
        raw = (folder / MANIFEST_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder.name}: {MANIFEST_FILE} is missing; is this a bundle?") from None
    except OSError as error:
        raise BundleError(f"{folder.name}: {MANIFEST_FILE} cannot be read: {error.strerror}") from None
    _check_format(folder.name, raw)
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"])
        raise BundleError(f"{folder.name}: {MANIFEST_FILE}: {path}: {first['msg']}") from None
    if manifest.version != folder.name:
        raise BundleError(
            f"{folder.name}: {MANIFEST_FILE} is of version {manifest.version!r}; rename the folder to that"
        )
    return manifest


def verify(folder: Path) -> Manifest:
    """Prove every file of a bundle by its SHA-256; reads all of it.

    Raises:
        BundleError: a file is missing, altered or not listed, or the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    for name in manifest.files:
        if not _is_name(name) or name == MANIFEST_FILE:
            raise BundleError(f"{folder.name}: {MANIFEST_FILE}: files: {name!r} is no plain file name")
    if unlisted := {path.name for path in folder.iterdir()} - manifest.files.keys() - {MANIFEST_FILE}:
        raise BundleError(f"{folder.name}: {min(unlisted)} is not listed in {MANIFEST_FILE}; remove it")
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"{folder.name}: {name} is missing; copy or export the bundle again")
        actual = _digest(folder / name)
        if actual != expected:
            raise BundleError(
                f"{folder.name}: {name} was truncated or altered: its SHA-256 is {actual[:12]}…, "
                f"not {expected[:12]}…; copy or export the bundle again"
            )
    return manifest


def write(models: Path, version: str, fill: Callable[[Path], Manifest]) -> Path:
    """Add a version: the whole bundle, or after a crash at any moment nothing.

    Args:
        models: folder of all versions; made where it is missing.
        version: name of the new one.
        fill: writes every file but the manifest into the folder it is given, and returns the manifest, whose
            `files` are filled in here.

    Returns:
        The bundle's folder.

    Raises:
        BundleError: the version exists, or `fill` left something that is no bundle.
    """
    target = locate(models, version)
    with ExitStack() as stack:
        with locked(models):
            _refuse_existing(target)
            _sweep(models)
            unfinished = models / f"{_UNFINISHED}{secrets.token_hex(8)}"
            unfinished.mkdir()
            stack.callback(shutil.rmtree, unfinished, ignore_errors=True)
            stack.enter_context(_held(unfinished))
        _seal(unfinished, version, fill(unfinished))
        with locked(models):
            _refuse_existing(target)
            unfinished.rename(target)
            _sync(models)
    return target


def replace(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file at once: a reader sees the old content or the new, whole.

    `durable` waits for the disk, so that a crash of the machine keeps one of them too.
    """
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}-{secrets.token_hex(4)}")
    try:
        unfinished.write_bytes(content)
        if durable:
            _sync(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if durable:
        _sync(path.parent)


@contextmanager
def locked(models: Path) -> Iterator[None]:
    """Keep every other writer of the models folder out; for writes of a moment only. Blocks."""
    models.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(models / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_name(name: str) -> bool:
    return re.fullmatch(NAME, name) is not None


def _check_format(version: str, raw: bytes) -> None:
    try:
        claims = json.loads(raw)
    except (ValueError, RecursionError):
        raise BundleError(
            f"{version}: {MANIFEST_FILE} is not JSON; copy or export the bundle again"
        ) from None
    number = claims.get("format") if isinstance(claims, dict) else None
    if type(number) is not int or number != FORMAT:
        raise BundleError(
            f"{version}: {MANIFEST_FILE}: format {number!r} is unknown; this program reads {FORMAT}"
        )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            # In pieces of 256 KiB, each hashed with the GIL released.
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path.parent.name}: {path.name} cannot be read: {error.strerror}") from None


def _seal(folder: Path, version: str, manifest: Manifest) -> None:
    """Add the manifest with the checksum of every file, and bring all of it to the disk."""
    if manifest.version != version:
        raise BundleError(f"{version}: the manifest is of version {manifest.version!r}; it must be the same")
    files = sorted(folder.iterdir())
    for path in files:
        if not path.is_file() or not _is_name(path.name) or path.name == MANIFEST_FILE:
            raise BundleError(f"{version}: {path.name} does not belong in a bundle: plain files only")
    digests = {path.name: _digest(path) for path in files}
    sealed = manifest.model_copy(update={"files": digests})
    (folder / MANIFEST_FILE).write_text(sealed.model_dump_json(indent=1), encoding="utf-8")
    for path in (*files, folder / MANIFEST_FILE, folder):
        _sync(path)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise BundleError(
            f"{target.name}: this version exists, and versions never change; choose another name"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Mark a folder as being worked on; the mark dies with the process, however it dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sweep(models: Path) -> None:
    """Remove what writers that died have left. Under the lock, so that no new folder is still unmarked."""
    for path in models.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if path.is_dir():
                with _held(path):
                    shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
