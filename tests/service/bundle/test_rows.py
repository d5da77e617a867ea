"""Encoded rows: taken, overwritten and compared."""

import numpy as np
import pytest

from service.bundle.columns import Lists, Numbers, Texts, strings
from service.bundle.pieces import PIECE
from service.bundle.rows import Columns, table_rows
from service.bundle.schema import Block, Layout
from service.bundle.table import Table


def numbered(n: int) -> Texts:
    """Texts "0", "1" …"""
    return Texts(strings(map(str, range(n))))


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_table_rows(size: int) -> None:
    """The chunks hold every row once, the unknown one first and the last one too."""
    chunks = list(table_rows(Table("t", [numbered(size).values], {"n": Numbers(np.zeros(size))})))
    assert all(0 < len(chunk) <= PIECE for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate(chunks), np.arange(size + 1))


def test_table_rows_are_cut_by_the_values_of_their_lists() -> None:
    """A chunk of long lists has few rows: encoding it looks up so many values as any other does."""
    lengths = np.random.default_rng(0).integers(0, 120, 2000)
    lengths[7] = 3 * PIECE
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    lists = Lists(numbered(offsets[-1]).values, offsets)
    chunks = list(table_rows(Table("t", [numbered(2000).values], {"recent": lists})))
    np.testing.assert_array_equal(np.concatenate(chunks), np.arange(2001))
    values = [lengths[rows[rows > 0] - 1] for rows in chunks]
    assert all(inside.sum() - inside.max() <= PIECE for inside in values if len(inside))


def test_rows_are_copied_and_compared() -> None:
    """What was taken can be overwritten without harm, and a row differs by any of its slots."""
    columns = Columns(np.array([[1, 2], [3, 4]], np.int32), np.array([[0.5], [1.5]], np.float32))
    taken = columns.take(np.array([1, 0, 1]))
    assert taken.index.tolist() == [[3, 4], [1, 2], [3, 4]]
    assert len(taken) == 3
    taken.put(
        np.array([0, 2]), Columns(np.array([[3, 9], [3, 4]], np.int32), np.array([[1.5], [2.5]], np.float32))
    )
    assert taken.differs(columns.take(np.array([1, 0, 1]))).tolist() == [True, False, True]
    assert columns.index.tolist() == [[1, 2], [3, 4]]


def test_zeros() -> None:
    """Rows of nothing known have the layout's widths, none included."""
    wide = Columns.zeros(2, Layout((Block("a", 0, 3, "a"),), (Block("b", 0, 2),)))
    assert (wide.index.shape, wide.value.shape) == ((2, 3), (2, 2))
    none = Columns.zeros(2, Layout((), ()))
    assert len(none) == 2
    assert not none.differs(none).any()
