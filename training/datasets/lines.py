"""Whether a CSV is whole, and there once: rows of as many values as the header has names, quotes closed.

What parses it afterwards would fill up a short row, and take whole rows for one value where a quote is left
open. They would be gone without a word.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from service.bundle.errors import FeatureError

NARROW = 4
"""columns; in a file of fewer a text of some lines may look like rows"""


@contextmanager
def reading(path: Path, what: str = "cannot be read") -> Iterator[None]:
    """Whatever is wrong with a file becomes a FeatureError that names it; `what` it then is told to be."""
    try:
        yield
    except FeatureError:
        raise
    except UnicodeDecodeError:
        raise FeatureError(path.name, "is not written in UTF-8; convert it") from None
    except gzip.BadGzipFile as error:
        raise FeatureError(
            path.name, f"is not gzipped, as its name says, or damaged ({error}); name or get it anew"
        ) from None
    except (EOFError, zlib.error) as error:
        raise FeatureError(path.name, f"is damaged or cut off ({error}); get it anew") from None
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:  # an OSError is pyarrow's word for what it cannot decode
        raise FeatureError(path.name, f"{what}: {error}") from None


def check_once(files: Sequence[Path]) -> None:
    """Raise FeatureError where a file lies beside itself, gzipped: its rows would be read twice."""
    names = {path.name for path in files}
    if twice := sorted(name for name in names if f"{name}.gz" in names):
        raise FeatureError(twice[0], f"lies beside {twice[0]}.gz, and both would be read; keep one of them")


def check_rows(path: Path, delimiter: str = ",", *, header: bool = True, filled: Sequence[str] = ()) -> None:
    """See that all rows of a CSV are whole.

    Args:
        path: of the file, gzipped where its name ends in ``.gz``.
        delimiter: between values.
        header: does the first row name the columns? Else it has as many values as every other.
        filled: columns that no row may leave empty.

    Raises:
        ValueError, EOFError, zlib.error, OSError: it is not what it should be; see `reading`.
    """
    with _opened(path) as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        line = 1
        try:
            names = next(rows, [])
            if header:
                _check_names(names)
            needed = [(names.index(name), name) for name in filled if name in names]
            line = rows.line_num + 1
            for row in rows:
                if len(row) != len(names) and row:  # a blank line is passed over
                    raise ValueError(f"line {line} has {len(row)} values, and {_wanted(len(names), header)}")
                if rows.line_num > line and _are_rows(row, delimiter):
                    raise ValueError(
                        f"line {line}: a quote is open over whole rows; close it, or leave it out"
                    )
                for at, name in needed:
                    if row and not row[at]:
                        raise ValueError(f"line {line} has no {name}; leave such rows out")
                line = rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}; is a quote left open, or not doubled?") from None


def _opened(path: Path) -> TextIO:
    """Its text; spreadsheets put a mark before the header."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _check_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(f"the header names {', '.join(map(repr, twice))} more than once; rename one of them")


def _wanted(count: int, header: bool) -> str:
    return f"the header {count} names" if header else f"the first one {count}"


def _are_rows(row: Sequence[str], delimiter: str) -> bool:
    """Does each of several lines that were read as one row look like a row of its own?

    A text of some lines that is meant does not; in a narrow file it might.
    """
    if len(row) < NARROW or not any("\n" in value and delimiter in value for value in row):
        return False
    return all(line.count(delimiter) == len(row) - 1 for line in delimiter.join(row).split("\n"))
