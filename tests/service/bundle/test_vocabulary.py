"""Vocabularies: stable rows, never beyond the table."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import strings
from service.bundle.keys import DENSE
from service.bundle.vocabulary import HashedVocabulary, PairVocabulary, Vocabulary

any_text = st.none() | st.text(st.characters(exclude_categories=()))


def test_learned() -> None:
    """The i-th category has row i + 1; everything else is out of vocabulary."""
    vocabulary = Vocabulary(strings(["b", "", "łódź"]))
    rows = vocabulary.rows(["łódź", "a", "b", None, ""])
    assert rows.tolist() == [3, 0, 1, 0, 2]
    assert rows.dtype == np.int32
    assert len(vocabulary) == 4


def test_hash_is_pinned() -> None:
    """The hash is the same on every machine and in every release: a bundle's embeddings depend on it."""
    values = ["", "a", "łódź", "東京", "a\0b", "\ud800", "x" * 1_000_000, None]
    assert HashedVocabulary(1000, seed=0).rows(values).tolist() == [1, 908, 444, 40, 722, 601, 51, 0]
    assert HashedVocabulary(1000, seed=20).rows(values).tolist() == [21, 895, 311, 763, 350, 933, 779, 0]


@given(st.lists(any_text), st.integers(1, 5))
def test_hash_stays_within(values: list[str | None], buckets: int) -> None:
    """Any text falls into a bucket; only a missing value has row 0."""
    vocabulary = HashedVocabulary(buckets, seed=3)
    rows = vocabulary.rows(values)
    assert all((row == 0) == (value is None) for row, value in zip(rows, values, strict=True))
    assert (rows < len(vocabulary)).all()


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 9))), st.sampled_from([10, DENSE]))
def test_pairs(known: set[tuple[int, int]], stride: int) -> None:
    """A known pair has its place, any other row 0, whether the pairs are few or beyond counting."""
    ascending = sorted(known)
    vocabulary = PairVocabulary(np.array([a * stride + b for a, b in ascending], np.int64), stride)
    left, right = np.arange(7, dtype=np.int32), np.arange(10, dtype=np.int32)
    rows = vocabulary.rows(left[:, None], right[None, :])
    for a in range(7):
        for b in range(10):
            assert rows[a, b] == (ascending.index((a, b)) + 1 if (a, b) in known else 0)
    assert len(vocabulary) == len(known) + 1
    assert rows.dtype == np.int32
