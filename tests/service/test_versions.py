"""Versions as operators see them, while others write and delete them."""

from functools import partial
from pathlib import Path

import pytest

from service.bundle import store
from service.errors import UnknownVersion
from service.versions import Versions
from tests.service.toy import bundle


def test_a_version_deleted_meanwhile_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing of the folder and the look at its files: the others are listed, asking says so."""
    store.write(tmp_path, "v1", partial(bundle, "v1"))
    listings = [["gone", "v1"], ["gone", "v1"], ["v1"]]
    monkeypatch.setattr(store, "versions", lambda models: listings.pop(0))
    versions = Versions(tmp_path)
    assert [version.version for version in versions.all()] == ["v1"]
    with pytest.raises(UnknownVersion, match=r"no version 'gone'; versions: v1$"):
        versions.one("gone")
