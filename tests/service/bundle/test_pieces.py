"""Pieces: what they make up, and that none is large."""

import sys
from itertools import pairwise
from operator import length_hint

import numpy as np
import pytest

from service.bundle.columns import strings
from service.bundle.pieces import PIECE, forget_keys, forget_values, looked_up, pieces

SIZES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE]


@pytest.mark.parametrize("n", SIZES)
def test_pieces_make_up_the_whole(n: int) -> None:
    """Every place once, in order, and never more than a piece of them."""
    cut = [range(n)[piece] for piece in pieces(n)]
    assert [at for piece in cut for at in piece] == list(range(n))
    assert all(0 < len(piece) <= PIECE for piece in cut)


@pytest.mark.parametrize("n", SIZES)
def test_looked_up(n: int) -> None:
    """Each value's own number, and 0 of what is not known."""
    values = [str(value) for value in range(n)]
    known: dict[str | None, int] = {value: int(value) for value in values if int(value) % 2}
    np.testing.assert_array_equal(looked_up(known, values), [n if n % 2 else 0 for n in range(n)])


def test_a_look_up_comes_back_to_python_after_every_piece() -> None:
    """No call of C takes more values than a piece has, for it would keep the GIL meanwhile."""
    values = iter(["a"] * (3 * PIECE))
    left = [length_hint(values)]
    sys.setprofile(lambda frame, event, of: left.append(length_hint(values)))
    try:
        found = looked_up({"a": 1}, values)
    finally:
        sys.setprofile(None)
    assert len(found) == 3 * PIECE
    assert max(before - after for before, after in pairwise(left)) <= PIECE


def test_forgotten() -> None:
    """No object stays."""
    values = strings(map(str, range(2 * PIECE + 1)))
    known: dict[str | None, int] = {str(n): n for n in range(10)}
    forget_values(values)
    forget_keys(known)
    assert set(values.tolist()) == {None}
    assert not known
