"""The requests that prove a bundle: drawn from the log, with everything that a request may bring."""

from __future__ import annotations

import numpy as np
import pytest

from service.bundle.golden import GoldenRequest
from service.bundle.schema import Side
from tests.training import worlds
from tests.training.worlds import Prepared
from training.golden import golden_requests, parity_cases


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """A log with every kind of feature."""
    return worlds.prepare(worlds.log(600))


@pytest.fixture(scope="module")
def golden(prepared: Prepared) -> list[GoldenRequest]:
    """Golden requests of its validation part."""
    return golden_requests(prepared.parts["validate"].impressions, prepared.encoder)


def test_logged_requests_are_as_they_were(prepared: Prepared, golden: list[GoldenRequest]) -> None:
    """Of several users, each in the context of an impression, with one candidate twice."""
    *logged, _ = golden
    assert len({request.user_id for request in logged}) > 2
    for request in logged:
        assert request.context.keys() == {"hour", "tab", "position"}
        assert len(set(request.item_ids)) < len(request.item_ids)
        encoded = request.encode(prepared.encoder)
        assert encoded.fresh is None
        assert (encoded.item_row > 0).all()


def test_the_last_request_brings_what_a_request_may(prepared: Prepared, golden: list[GoldenRequest]) -> None:
    """A user nobody knows with features, an unknown item, and an item with fields that are not its own."""
    last = golden[-1]
    assert last.user_id is None
    assert last.user["city"] is not None
    encoded = last.encode(prepared.encoder)
    assert encoded.item_row.tolist().count(0) == 1
    assert encoded.fresh is not None
    assert 0 in encoded.fresh_at
    assert any(name.startswith("author_stats.") for fields in last.inline.values() for name in fields)


def test_golden_requests_survive_their_file(golden: list[GoldenRequest]) -> None:
    """They are JSON: numbers, strings and lists, nulls where a table knows nothing."""
    assert [GoldenRequest.model_validate_json(request.model_dump_json()) for request in golden] == golden


def test_a_parity_case_has_what_the_log_would_be(prepared: Prepared) -> None:
    """Of each size, of other users; a request without its own fields is encoded as the log is."""
    cases = parity_cases(prepared.parts["validate"].impressions, prepared.encoder, (1, 7, 60))
    assert [len(case.request.item_ids) for case in cases] == [1, 7, 60]
    assert len({case.request.user_id for case in cases}) == 3
    assert [bool(case.request.inline) for case in cases] == [False, True, True]
    for case in cases:
        plain = case.request.model_copy(update={"inline": {}}).encode(prepared.encoder)
        user, items = plain.user, prepared.encoder.items.take(plain.item_row)
        for ours, theirs, side in zip((user, items, plain.cross), case.logged, Side, strict=True):
            rows = len(case.request.item_ids)
            np.testing.assert_array_equal(
                np.broadcast_to(ours.index, (rows, ours.index.shape[1])), theirs.index, err_msg=side
            )
            np.testing.assert_array_equal(
                np.broadcast_to(ours.value, (rows, ours.value.shape[1])), theirs.value, err_msg=side
            )
