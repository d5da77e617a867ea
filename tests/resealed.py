"""Bundles that were spoiled and sealed again, so that only the loader can find the fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.bundle.manifest import MANIFEST_FILE


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    """Make the manifest vouch for what lies in the folder now: only the loader can find the fault."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
