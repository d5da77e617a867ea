"""Encoded rows: taken, overwritten and compared."""

import numpy as np
import pytest

from service.bundle.rows import CHUNK, Columns, table_rows
from service.bundle.schema import Block, Layout


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_table_rows(size: int) -> None:
    """The chunks hold every row once, the unknown one first and the last one too."""
    chunks = list(table_rows(size))
    assert all(0 < len(chunk) <= CHUNK for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate(chunks), np.arange(size + 1))


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
