"""What comes along: groups of rows that bring the same, and how few of them there are."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.columns import Numbers, Texts, column_of, strings
from service.bundle.encoder import Encoder
from service.bundle.given import Given, alike
from service.bundle.kinds import Fitted
from service.bundle.schema import FeatureSchema
from service.bundle.table import Table
from tests.tiny_features import FEATURES, tiny_encoder

PATHS = ("item.a", "item.b", "item.c")
ENCODER = tiny_encoder()
FIELDS: dict[str, Any] = {
    "author": "a1",
    "tags": ["t1"],
    "length": 3.0,
    "cover": [0.1, 0.2],
    "clicks_1h": 3,
    "author_stats.rate": 0.1,
    "author_stats.group": "x",
    "user_author.rate": 0.2,
    "user_author.last": "feed",
}


@given(st.dictionaries(st.sampled_from(PATHS), st.sets(st.integers(0, 9), min_size=1)))
def test_alike(brought: dict[str, set[int]]) -> None:
    """Every row that brings something is in one group, with what it brings and nothing else."""
    columns = {
        path: Given(np.array(sorted(rows)), Numbers(np.array(sorted(rows), np.float64)))
        for path, rows in brought.items()
    }
    found: dict[int, dict[str, float]] = {}
    for rows, known in alike(columns, ("item.a", "item.b")):
        for at, row in enumerate(rows.tolist()):
            assert row not in found
            found[row] = {path: column.at(at) for path, column in known.items()}  # type: ignore[misc]
    read = {path: rows for path, rows in brought.items() if path != "item.c"}
    expected = {row: {path: row for path in read if row in read[path]} for row in set().union(*read.values())}
    assert found == expected


def encodings(call: Callable[[], object]) -> int:
    """How often a column is encoded meanwhile."""
    count = 0

    def watch(frame: FrameType, event: str, of: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_name == "encode_column"

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_what_each_candidate_brings_does_not_multiply_the_work() -> None:
    """Columns encoded are bounded by the features, however many sets of fields the candidates bring."""
    random = np.random.default_rng(0)
    ids = [str(n) for n in range(200)] * 3
    inline = {
        at: {name: value for name, value in FIELDS.items() if random.random() < 0.5} for at in range(len(ids))
    }
    assert encodings(lambda: ENCODER.request("3", {}, {}, ids, inline)) <= 3 * len(FEATURES)


def test_fields_that_no_feature_reads_cost_nothing() -> None:
    """Each candidate has one of another name: nothing is encoded, and nobody is known by it."""
    ids = [str(n) for n in range(200)]
    unread = {at: {f"x{at}": 1} for at in range(len(ids))}
    assert encodings(lambda: ENCODER.request("3", {}, {}, ids, unread)) == 0
    assert ENCODER.request("3", {}, {}, ids, unread).fresh is None


def test_a_constant_stands_where_a_key_reads_it() -> None:
    """A table by a train_only field is looked up by its constant in serving, whatever else a request says."""
    schema = FeatureSchema.model_validate(
        {
            "features": [
                {"kind": "numeric", "name": "position", "source": "context.position", "train_only": True,
                 "serving": 2, "standardise": False},
                {"kind": "numeric", "name": "rate", "source": "places.rate", "standardise": False},
            ],
            "tables": {"places": ["context.tab", "context.position"]},
        }
    )  # fmt: skip
    tables = {
        "user": Table("user", [strings("u")], {"none": Texts(strings("x"))}),
        "item": Table("item", [strings("i")], {}),
        "places": Table("places", [strings("a"), strings("2")], {"rate": Numbers(np.array([0.5]))}),
    }
    encoder = Encoder(schema.model_copy(update={"fitted": Fitted()}), {}, tables)
    assert encoder.request("u", {}, {"tab": "a"}, ["i"], {}).user.value.tolist() == [[2, 0, 0.5, 0]]
    logged = {"context.tab": column_of(["a"], "tab"), "context.position": column_of([2.0], "position")}
    user, _, _ = encoder.log(strings("u"), strings("i"), logged, serving=False)
    assert user.value.tolist() == [[2, 0, 0.5, 0]]
    del logged["context.position"]
    user, _, _ = encoder.log(strings("u"), strings("i"), logged, serving=False)
    assert user.value.tolist() == [[0, 1, 0, 1]]
