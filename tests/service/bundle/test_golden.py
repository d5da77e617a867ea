"""Golden requests: kept as they were, and no proof without numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle.errors import BundleError
from service.bundle.golden import (
    REQUESTS_FILE,
    SCORES_FILE,
    GoldenRequest,
    agree,
    disagreement,
    read_golden,
    write_golden,
)
from service.bundle.manifest import Manifest
from tests.tiny import write_tiny
from tests.tiny_features import tiny_encoder, tiny_requests

REQUESTS = (
    GoldenRequest(user_id="u", context={"hour": 20, "tab": None}, item_ids=("a", "b")),
    GoldenRequest(user_id=None, user={"taste": [0.1, 2]}, item_ids=("łódź",), inline={0: {"t.x": True}}),
)
SCORES = [{"click": np.array([0.5, 0.25], np.float32)}, {"click": np.array([0.1], np.float32)}]


def test_round_trip(tmp_path: Path) -> None:
    """Requests and scores come back as they were written."""
    write_golden(tmp_path, REQUESTS, SCORES)
    requests, scores = read_golden(tmp_path)
    assert requests == REQUESTS
    for ours, theirs in zip(scores, SCORES, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(ours["click"], theirs["click"])
        assert ours["click"].dtype == np.float32


def test_encodes_as_the_request_it_was(tmp_path: Path) -> None:
    """What went through the file encodes to the bit as what did not."""
    encoder, requests = tiny_encoder(), tiny_requests()
    ones = [{"click": np.ones(len(request.item_ids), np.float32)} for request in requests]
    write_golden(tmp_path, requests, ones)
    for before, after in zip(requests, read_golden(tmp_path)[0], strict=True):
        ours, theirs = after.encode(encoder), before.encode(encoder)
        np.testing.assert_array_equal(ours.user.index, theirs.user.index)
        np.testing.assert_array_equal(ours.user.value, theirs.user.value)
        np.testing.assert_array_equal(ours.cross.value, theirs.cross.value)
        np.testing.assert_array_equal(ours.fresh_at, theirs.fresh_at)


number = st.floats(-1e6, 1e6)


@given(number, number)
def test_numbers_agree(ours: float, theirs: float) -> None:
    """They agree within 1e-5 of the expected number, or of 1 where that is smaller."""
    expected = abs(ours - theirs) <= 1e-5 * max(1.0, abs(theirs))
    assert agree(np.array([1.0, ours]), np.array([1.0, theirs])) == expected


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_no_number_agrees_with_nothing(odd: float) -> None:
    """NaN and infinity disagree even with themselves, and so do arrays of other lengths."""
    good, bad = np.array([1.0]), np.array([odd])
    for ours, theirs in ((bad, good), (good, bad), (bad, bad), (good, np.array([1.0, 1.0]))):
        assert disagreement(ours, theirs) == math.inf
        assert not agree(ours, theirs)
    assert agree(np.array([]), np.array([]))


def test_tolerance_can_be_stated() -> None:
    """A bundle of half precision may state a tolerance of its own."""
    assert agree(np.array([1.001]), np.array([1.0]), tolerance=1e-2)


def test_what_proves_nothing_is_refused(tmp_path: Path) -> None:
    """No requests, requests without scores, and scores without a request are no proof."""
    with pytest.raises(BundleError, match=r"golden\.json cannot be read"):
        read_golden(tmp_path)
    write_golden(tmp_path, (), [])
    with pytest.raises(BundleError, match="holds no request"):
        read_golden(tmp_path)
    write_golden(tmp_path, REQUESTS, SCORES[:1])
    with pytest.raises(BundleError, match=r"golden\.npz holds no scores of request 1"):
        read_golden(tmp_path)
    for name in ("2/click", "-1/click", "click"):
        np.savez(tmp_path / SCORES_FILE, allow_pickle=False, **{name: np.ones(1, np.float32)})
        with pytest.raises(BundleError, match=f"holds '{name}', which is of no request"):
            read_golden(tmp_path)
    (tmp_path / SCORES_FILE).write_bytes(b"PK")
    with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
        read_golden(tmp_path)
    for content in ("[{}]", "{", json.dumps([{"user_id": "u", "item_ids": []}])):
        (tmp_path / REQUESTS_FILE).write_text(content)
        with pytest.raises(BundleError, match=r"golden\.json cannot be read"):
            read_golden(tmp_path)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 0.2, math.inf, math.nan])
def test_a_tolerance_that_proves_nothing_is_refused(tmp_path: Path, tolerance: float) -> None:
    """A bundle cannot state that any score will do, nor that none will."""
    manifest = write_tiny(tmp_path, "v1").manifest.model_dump()
    with pytest.raises(ValidationError, match="tolerance"):
        Manifest.model_validate({**manifest, "tolerance": tolerance})
    assert Manifest.model_validate({**manifest, "tolerance": 0.1}).tolerance == 0.1
