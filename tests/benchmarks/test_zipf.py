"""Items drawn by Zipf's law."""

from __future__ import annotations

import numpy as np

from benchmarks.serving.zipf import Zipf

ITEMS = 1_000


def test_the_items_of_a_request_are_different_ones() -> None:
    """However many of all there are are asked for."""
    zipf = Zipf(40, seed=1)
    for n in (1, 7, 40):
        drawn = zipf.items(n)
        assert len(np.unique(drawn)) == len(drawn) == n
        assert ((drawn >= 0) & (drawn < 40)).all()


def test_the_second_is_wanted_half_as_often_as_the_first() -> None:
    """The r-th most wanted item comes first about 1/r times as often as the most wanted."""
    zipf = Zipf(ITEMS, seed=2)
    firsts = np.bincount([int(zipf.items(1)[0]) for _ in range(20_000)], minlength=ITEMS)
    by_rank = np.sort(firsts)[::-1]
    for rank in (2, 3, 5):
        assert 0.8 / rank < by_rank[rank - 1] / by_rank[0] < 1.2 / rank


def test_who_is_wanted_most_has_nothing_to_do_with_its_number() -> None:
    """Another seed wants others; the same one the same."""
    most = {seed: np.bincount(Zipf(ITEMS, seed).items(500), minlength=ITEMS) for seed in (1, 2)}
    assert (most[1] != most[2]).any()
    np.testing.assert_array_equal(most[1], np.bincount(Zipf(ITEMS, 1).items(500), minlength=ITEMS))


def test_requests_are_of_users_and_items_that_there_are() -> None:
    """By the names that the workload gives them, for all task scores."""
    (body,) = Zipf(40, seed=3).bodies(1, 7, users=5)
    assert body["user_id"] in {f"u{row}" for row in range(5)}
    assert len({f"i{row}" for row in range(40)} & set(body["candidates"])) == 7
    assert body["tasks"] is True
