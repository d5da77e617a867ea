"""Snapshots: what was written is read again, to the bit, and nothing is ever unpickled."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.bundle.columns import Column, Lists, Numbers, Texts, Vectors, strings
from service.bundle.errors import BundleError
from service.bundle.golden import REQUESTS_FILE, SCORES_FILE
from service.bundle.kinds import Fitted, VocabularySpec
from service.bundle.manifest import MANIFEST_FILE
from service.bundle.schema import FeatureSchema
from service.bundle.snapshot import (
    VOCABULARY_FILE,
    read_table,
    read_vocabularies,
    table_file,
    write_table,
    write_vocabularies,
)
from service.bundle.table import Table
from service.bundle.vocabulary import AnyVocabulary, HashedVocabulary, PairVocabulary, Vocabulary
from tests.tiny_features import tiny_encoder, tiny_tables, tiny_vocabularies

any_text = st.text(st.characters(exclude_categories=()), max_size=6)
names = st.sampled_from(["a", "b", "łódź", "a/bytes", "file", "allow_pickle"])


def columns(n: int) -> st.SearchStrategy[Column]:
    """Columns of every kind, ``[n]``."""
    texts = st.lists(st.none() | any_text, min_size=n, max_size=n)
    lists = st.lists(st.lists(any_text, max_size=3), min_size=n, max_size=n)
    return st.one_of(
        arrays.arrays(np.float64, n).map(Numbers),
        arrays.arrays(np.float32, st.tuples(st.just(n), st.integers(1, 3))).map(Vectors),
        texts.map(strings).map(Texts),
        lists.map(Lists.of),
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of one or two key parts, empty ones among them."""
    keys = draw(st.lists(any_text, unique=True, max_size=4))
    parts = [strings(keys), strings("x" for _ in keys)][: draw(st.integers(1, 2))]
    return Table("t", parts, draw(st.dictionaries(names, columns(len(keys)), max_size=4)))


def assert_same(ours: Table, theirs: Table) -> None:
    """Keys and columns are equal, and of the same types."""
    assert [part.tolist() for part in ours.keys] == [part.tolist() for part in theirs.keys]
    assert ours.columns.keys() == theirs.columns.keys()
    for name, column in ours.columns.items():
        other = theirs.columns[name]
        assert type(column) is type(other)
        assert len(column) == len(other)
        assert column.values.dtype == other.values.dtype
        np.testing.assert_array_equal(column.values, other.values)
        if isinstance(column, Lists) and isinstance(other, Lists):
            np.testing.assert_array_equal(column.offsets, other.offsets)


@settings(deadline=None)
@given(tables())
def test_table_round_trip(table: Table) -> None:
    """Missing values, empty strings, any text and any number come back as they were."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.npz"
        write_table(path, table)
        assert_same(read_table(path, "t"), table)
        with np.load(path, allow_pickle=False) as file:
            assert not any(file[name].dtype.hasobject for name in file.files)


def test_equal_strings_are_one_in_memory(tmp_path: Path) -> None:
    """A sequence repeats few ids many times: each is stored, decoded and kept once."""
    recent = Lists(strings([f"item {at % 3}" for at in range(3000)]), np.arange(0, 3001, 10))
    write_table(tmp_path / "users.npz", Table("user", [strings(map(str, range(300)))], {"recent": recent}))
    read = read_table(tmp_path / "users.npz", "user").columns["recent"]
    assert isinstance(read, Lists)
    assert read.values.tolist() == recent.values.tolist()
    assert len(set(map(id, read.values))) == 3


def test_a_key_s_parts_are_one_in_memory(tmp_path: Path) -> None:
    """Of two, each repeats its ids: a user stands in a row for every tag."""
    parts = [strings(f"user {at // 30}" for at in range(90)), strings(f"tag {at % 30}" for at in range(90))]
    write_table(tmp_path / "t.npz", Table("t", parts, {}))
    read = read_table(tmp_path / "t.npz", "t")
    assert [part.tolist() for part in read.keys] == [part.tolist() for part in parts]
    assert [len(set(map(id, part))) for part in read.keys] == [3, 30]


def test_tiny_tables(tmp_path: Path) -> None:
    """All tables of a bundle lie beside each other, and answer as before."""
    for name, table in tiny_tables().items():
        write_table(tmp_path / table_file(name), table)
    for name, table in tiny_tables().items():
        assert_same(read_table(tmp_path / table_file(name), name), table)
    read = read_table(tmp_path / table_file("user_author"), "user_author")
    assert read.rows(read.keys[0], read.keys[1]).tolist() == list(range(1, len(read) + 1))


def test_no_table_takes_the_place_of_another_file() -> None:
    """Whatever a config calls its tables, each has a file of its own."""
    taken = {VOCABULARY_FILE, SCORES_FILE, REQUESTS_FILE, MANIFEST_FILE}
    named = ["user", "item", "users", "items", "vocabulary", "golden", "manifest"]
    files = {table_file(name) for name in named}
    assert len(files) == len(named)
    assert not files & taken


def test_vocabularies_round_trip(tmp_path: Path) -> None:
    """Learned ids and pairs are read from the file, hashed vocabularies made from the schema."""
    schema, written = tiny_encoder().schema, tiny_vocabularies(tiny_tables())
    write_vocabularies(tmp_path / VOCABULARY_FILE, written)
    read = read_vocabularies(tmp_path / VOCABULARY_FILE, schema)
    assert read.keys() == written.keys()
    for name, vocabulary in written.items():
        assert type(read[name]) is type(vocabulary)
        assert len(read[name]) == len(vocabulary)
        assert _contents(read[name]) == _contents(vocabulary)


def _contents(vocabulary: AnyVocabulary) -> object:
    if isinstance(vocabulary, Vocabulary):
        return vocabulary.ids.tolist()
    if isinstance(vocabulary, PairVocabulary):
        return vocabulary.pairs.tolist(), vocabulary.stride
    return vocabulary


def test_a_hashed_vocabulary_needs_no_file_entry(tmp_path: Path) -> None:
    """Size and seed in the schema are all there is to a hashed vocabulary."""
    write_vocabularies(tmp_path / VOCABULARY_FILE, {"city": HashedVocabulary(5, 9)})
    specs = {"city": VocabularySpec(rows=6, hash_seed=9), "lost": VocabularySpec(rows=3)}
    schema = FeatureSchema(features=(), fitted=Fitted(vocabularies=specs))
    read = read_vocabularies(tmp_path / VOCABULARY_FILE, schema)
    assert read == {"city": HashedVocabulary(5, 9)}


NOTHING = np.zeros(0, np.uint8)


def torn(kind: str, name: str) -> dict[str, np.ndarray]:
    """Strings of which one is there by one array, and none by the next."""
    return {
        f"{kind}/{name}": NOTHING,
        f"{kind}.offsets/{name}": np.zeros(0, np.int64),
        f"{kind}.missing/{name}": np.zeros(1, bool),
    }


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    """A missing, empty, cut or foreign file is refused by its name, a pickle unread."""
    path = tmp_path / "t.npz"
    with pytest.raises(BundleError, match=r"t\.npz cannot be read"):
        read_table(path, "t")
    write_table(path, tiny_tables()["item"])
    whole = path.read_bytes()
    for broken in (b"", b"PK", whole[: len(whole) // 2], b"not a zip"):
        path.write_bytes(broken)
        with pytest.raises(BundleError, match=r"t\.npz cannot be read"):
            read_table(path, "t")
    np.savez(path, allow_pickle=True, **{"key/0": np.array([{}], dtype=object)})
    with pytest.raises(BundleError, match="allow_pickle=False"):
        read_table(path, "t")
    for foreign in ({}, {"key/0": NOTHING}, {"numbers/n": np.zeros(3)}, torn("key", "0")):
        np.savez(path, allow_pickle=False, **foreign)
        with pytest.raises(BundleError, match=r"t\.npz holds no table"):
            read_table(path, "t")


def test_what_holds_no_vocabularies_is_refused(tmp_path: Path) -> None:
    """Arrays that are missing, or do not fit each other, are refused by the file's name."""
    path = tmp_path / VOCABULARY_FILE
    schema = FeatureSchema(features=(), fitted=Fitted(vocabularies={"a": VocabularySpec(rows=3)}))
    pairs = {"pairs/a": np.zeros(1, np.int64)}
    for foreign in ({"ids/a": NOTHING}, torn("ids", "a"), pairs, pairs | {"stride/a": np.array([1, 2])}):
        np.savez(path, allow_pickle=False, **foreign)
        with pytest.raises(BundleError, match=r"vocabulary\.npz holds no vocabularies"):
            read_vocabularies(path, schema)
