"""Tables and vocabularies as npz files: numbers as they are, strings as UTF-8 and offsets, no pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.columns import Column, Lists, Numbers, Strings, Texts, Vectors, strings
from service.bundle.errors import BundleError
from service.bundle.pieces import pieces
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from service.bundle.vocabulary import AnyVocabulary, HashedVocabulary, PairVocabulary, Vocabulary

Arrays = dict[str, NDArray[Any]]

VOCABULARY_FILE = "vocabulary.npz"


def table_file(name: str) -> str:
    """File of a table in its bundle."""
    return {"user": "users.npz", "item": "items.npz"}.get(name, f"table-{name}.npz")


def write_table(path: Path, table: Table) -> None:
    """Write a table to one npz file."""
    arrays: Arrays = {}
    for part, key in enumerate(table.keys):
        # Of a key of several parts, each part repeats its ids: a user's in every row of her tags.
        arrays |= (_coded if len(table.keys) > 1 else _packed)("key", str(part), key)
    for name, column in table.columns.items():
        if isinstance(column, Texts):
            arrays |= _coded("texts", name, column.values)
        elif isinstance(column, Lists):
            arrays |= _coded("lists", name, column.values) | {f"lists.rows/{name}": column.offsets}
        else:
            arrays[f"{'numbers' if isinstance(column, Numbers) else 'vectors'}/{name}"] = column.values
    np.savez(path, allow_pickle=False, **arrays)


def read_table(path: Path, name: str) -> Table:
    """Read a table. Raises BundleError where the file is not one."""
    arrays = read_arrays(path)
    columns: dict[str, Column] = {}
    keys: list[Strings] = []
    with _refusing(path, "table"):
        for label, array in arrays.items():
            kind, _, field = label.partition("/")
            if kind == "key":
                repeats = f"key.codes/{field}" in arrays
                keys.append((_decoded if repeats else _unpacked)(arrays, kind, field))
            elif kind == "numbers":
                columns[field] = Numbers(array)
            elif kind == "vectors":
                columns[field] = Vectors(array)
            elif kind == "texts":
                columns[field] = _texts(arrays, kind, field)
            elif kind == "lists":
                columns[field] = Lists(_decoded(arrays, kind, field), arrays[f"lists.rows/{field}"])
        return Table(name, keys, columns)


def write_vocabularies(path: Path, vocabularies: Mapping[str, AnyVocabulary]) -> None:
    """Write the learned vocabularies to one npz file; a hashed one is all in the schema."""
    arrays: Arrays = {}
    for name, vocabulary in vocabularies.items():
        if isinstance(vocabulary, Vocabulary):
            arrays |= _packed("ids", name, vocabulary.ids)
        elif isinstance(vocabulary, PairVocabulary):
            arrays |= {f"pairs/{name}": vocabulary.pairs, f"stride/{name}": np.array(vocabulary.stride)}
    np.savez(path, allow_pickle=False, **arrays)


def read_vocabularies(path: Path, schema: FeatureSchema) -> dict[str, AnyVocabulary]:
    """Read the learned vocabularies, and make the hashed ones. Raises BundleError for no such file."""
    arrays = read_arrays(path)
    vocabularies: dict[str, AnyVocabulary] = {}
    with _refusing(path, "vocabularies"):
        for name, spec in schema.fitted.vocabularies.items():
            if spec.hash_seed is not None:
                vocabularies[name] = HashedVocabulary(spec.rows - 1, spec.hash_seed)
            elif f"pairs/{name}" in arrays:
                vocabularies[name] = PairVocabulary(arrays[f"pairs/{name}"], int(arrays[f"stride/{name}"]))
            elif f"ids/{name}" in arrays:
                vocabularies[name] = Vocabulary(_unpacked(arrays, "ids", name))
    return vocabularies


def read_arrays(path: Path) -> Arrays:
    """The arrays of an npz file. Raises BundleError where it is none."""
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path.name} cannot be read: {error}") from error


@contextmanager
def _refusing(path: Path, what: str) -> Iterator[None]:
    """Raise BundleError where arrays are missing, or do not fit each other."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BundleError(f"{path.name} holds no {what}: {error}") from error


def _packed(kind: str, name: str, values: Strings) -> Arrays:
    # A string from JSON may hold half a surrogate pair, which plain UTF-8 refuses.
    encoded = [b"" if value is None else value.encode(errors="surrogatepass") for value in values]
    return {
        f"{kind}/{name}": np.frombuffer(b"".join(encoded), np.uint8),
        f"{kind}.offsets/{name}": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        f"{kind}.missing/{name}": np.array([value is None for value in values], dtype=bool),
    }


def _coded(kind: str, name: str, values: Strings) -> Arrays:
    """Each distinct string once, and its place for every value: sequences repeat few ids many times."""
    place = {value: at for at, value in enumerate(dict.fromkeys(values))}
    codes = np.fromiter(map(place.__getitem__, values), np.int32, len(values))
    return _packed(kind, name, strings(place)) | {f"{kind}.codes/{name}": codes}


def _texts(arrays: Arrays, kind: str, name: str) -> Texts:
    """The column as it lies in the file, each string once, and None before them."""
    distinct, codes = _unpacked(arrays, kind, name), arrays[f"{kind}.codes/{name}"]
    if len(codes) and not 0 <= codes.min() <= codes.max() < len(distinct):
        raise IndexError(f"{name} has codes that stand for nothing")
    return Texts(np.concatenate([[None], distinct]), (codes + 1).astype(np.int32))


def _decoded(arrays: Arrays, kind: str, name: str) -> Strings:
    distinct, codes = _unpacked(arrays, kind, name), arrays[f"{kind}.codes/{name}"]
    values = np.empty(len(codes), dtype=object)
    for piece in pieces(len(codes)):
        values[piece] = distinct[codes[piece]]
    return values


def _unpacked(arrays: Arrays, kind: str, name: str) -> Strings:
    data, offsets, missing = (
        arrays[f"{label}/{name}"] for label in (kind, f"{kind}.offsets", f"{kind}.missing")
    )
    values = np.empty(len(missing), dtype=object)
    for piece in pieces(len(values)):
        ends = offsets[piece.start : piece.stop + 1].tolist()
        encoded = data[ends[0] : ends[-1]].tobytes()
        values[piece] = strings(_cut(encoded, [end - ends[0] for end in ends]))
        values[piece][missing[piece]] = None
    return values


def _cut(encoded: bytes, ends: Sequence[int]) -> list[str]:
    """The strings from each end to the next. Of ASCII all are decoded at once: a third of the time."""
    if encoded.isascii():
        text = encoded.decode()
        return [text[start:end] for start, end in pairwise(ends)]
    return [encoded[start:end].decode(errors="surrogatepass") for start, end in pairwise(ends)]
