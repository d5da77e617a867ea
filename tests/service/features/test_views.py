"""What a stored row is to a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Value
from service.bundle.schema import Scope
from service.features.reads import table_reads
from service.features.store import Row, RowKey
from service.features.views import Fault, View, are_readable, views
from tests.service.features.test_lookup import ENCODER, Stored, stored_rows

NAMES = ("author", "length", "tags", "cover", "clicks_1h", "unread")
VALUES: st.SearchStrategy[Value] = st.sampled_from([None, True, 7, 2**70, 1.5, "7", "long", ["t1"], [1, 2.0]])
READS = {reads.name: reads for reads in table_reads(ENCODER.schema, ENCODER.attributes)}


def seen(rows: Mapping[RowKey, Row | None]) -> list[tuple[object, ...]]:
    """What each row is to the version, table by table."""
    found: list[View] = []
    for name, reads in READS.items():
        of_table = {key: row for key, row in rows.items() if key[0] == name}
        if of_table:
            found += views(ENCODER, reads, list(of_table), list(of_table.values()))
    return [(view.adds, view.parts, view.sound, view.faults) for view in found]


@given(stored_rows())
def test_a_version_s_own_row_says_nothing_to_any(stored: Stored) -> None:
    """Whatever stands in it, unread values too: as if nothing were stored, also where keys are made of it."""
    of_v1 = {key: Row(1, {**fields, "length": "long"}, "v1") for key, fields in stored.items()}
    assert seen(of_v1) == seen(dict.fromkeys(stored))


@given(stored_rows())
def test_a_row_of_the_version_itself_is_no_loss(stored: Stored) -> None:
    """As `features load` writes it: read, it would say what the version's table does.

    What follows from the item is told apart when it is encoded.
    """
    tables = {name: ENCODER.tables[name] for name, reads in READS.items() if reads.scope is not Scope.ITEM}
    own = {(name, *key): fields for name, table in tables.items() for key, fields in table.each()}
    rows = {key: Row(1, own[key]) for key in stored if key in own}
    assert seen(rows) == seen(dict.fromkeys(rows))


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES)), min_size=1, max_size=5))
def test_rows_are_readable_where_each_is(rows: Sequence[Mapping[str, Value]]) -> None:
    """All in one go, as one by one: whatever they have in common, and whatever no feature reads."""
    one_by_one = [seen({("item", "0"): Row(1, fields)})[0][2] for fields in rows]
    assert are_readable(ENCODER, READS["item"], dict(enumerate(rows))) == all(one_by_one)


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"length": "long", "clicks_1h": 4}, [Fault("length", "expected a number, got 'long'")]),
        ({"clicks_1h": [1], "author": ["a"]}, [
            Fault("author", "expected a single value, got a list"),
            Fault("clicks_1h", "expected a number, got a list"),
        ]),
        ({"cover": [1.0]}, [Fault("cover", "expected a vector of 2 numbers, got 1")]),
        ({"length": "7", "unread": [[]]}, []),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(fields: Mapping[str, Value], faults: list[Fault]) -> None:
    """By field, with the reason; of its own row alone, though many are read together."""
    rows = [Row(1, {"length": at, "clicks_1h": at, "author": "a2", "cover": [0, 0]}) for at in range(7)]
    rows[3] = Row(1, fields)
    found = views(ENCODER, READS["item"], [("item", str(at)) for at in range(7)], rows)
    assert list(found[3].faults) == faults
    assert found[3].sound == (not faults)
    assert all(view.sound and not view.faults for at, view in enumerate(found) if at != 3)
