"""Categories -> rows of an embedding table. Row 0 is out of vocabulary."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Rows, Strings
from service.bundle.keys import NumberIndex
from service.bundle.pieces import forget_keys, forget_values, looked_up


class Vocabulary:
    """Learned categories: the ``i``-th has row ``i + 1``.

    Args:
        ids: the categories, unique strings ``[n]``.
    """

    def __init__(self, ids: Strings) -> None:
        self.ids = ids
        self._rows: dict[str | None, int] = {value: row for row, value in enumerate(ids, 1)}

    def __len__(self) -> int:
        """Rows of the embedding table, row 0 included."""
        return len(self.ids) + 1

    def rows(self, values: Iterable[str | None]) -> Rows:
        """Rows ``[n]`` of the values."""
        return looked_up(self._rows, values).astype(np.int32)

    def forget(self) -> None:
        """Give the memory back. It is of no use any more."""
        forget_values(self.ids)
        forget_keys(self._rows)


@dataclass(frozen=True, slots=True)
class HashedVocabulary:
    """Categories hashed into `buckets` rows by CRC-32 with a seed: the same everywhere and for ever.

    Attributes:
        buckets: at least 1.
        seed: what the checksum starts from.
    """

    buckets: int
    seed: int

    def __len__(self) -> int:
        """Rows of the embedding table, row 0 included."""
        return self.buckets + 1

    def rows(self, values: Iterable[str | None]) -> Rows:
        """Rows ``[n]`` of the values; a missing value has row 0."""
        return np.fromiter((0 if value is None else self._row(value) for value in values), np.int32)

    def _row(self, value: str) -> int:
        # A string from JSON may hold half a surrogate pair, which plain UTF-8 refuses.
        return 1 + zlib.crc32(value.encode(errors="surrogatepass"), self.seed) % self.buckets


class PairVocabulary:
    """Pairs of rows seen in training -> rows.

    Args:
        pairs: ``left * stride + right`` of each known pair, ascending, ``[n]``.
        stride: rows of the right feature's vocabulary.
    """

    def __init__(self, pairs: NDArray[np.int64], stride: int) -> None:
        self.pairs = pairs
        self.stride = stride
        self._index = NumberIndex(pairs, np.arange(1, len(self)))

    def __len__(self) -> int:
        """Rows of the embedding table, row 0 included."""
        return len(self.pairs) + 1

    def rows(self, left: NDArray[Any], right: NDArray[Any]) -> Rows:
        """Rows of the pairs (broadcast against each other)."""
        return self._index.rows(left.astype(np.int64) * self.stride + right)


AnyVocabulary = Vocabulary | HashedVocabulary | PairVocabulary
