"""Impressions and logs: rows are taken together, and nothing is of another length."""

import numpy as np
import pytest

from service.bundle.columns import Lists, Numbers, Texts, strings
from service.bundle.table import Table
from training.impressions import Impressions, Log


def impressions(n: int = 4) -> Impressions:
    """Rows whose every value tells which row it is."""
    return Impressions(
        user_id=strings(f"u{i}" for i in range(n)),
        item_id=strings(f"i{i}" for i in range(n)),
        day=np.arange(20240501, 20240501 + n, dtype=np.int32),
        context={
            "tab": Texts(strings("feed" for _ in range(n))),
            "tags": Lists.of([str(i)] * i for i in range(n)),
        },
        labels={"click": np.arange(n, dtype=np.float32)},
        inline={"item.length_s": Numbers(np.arange(n, dtype=np.float64) * 10)},
    )


def log(n: int = 4) -> Log:
    """Those rows with a table and a truth."""
    table = Table("user", [strings(f"u{i}" for i in range(n))], {})
    return Log(impressions(n), {"user": table}, {"click": np.arange(n) / 10})


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([0, 2]), np.array([], dtype=np.int64)])
def test_take_gives_every_column_the_same_rows(rows: np.ndarray) -> None:
    """Ids, days, context, labels, inline values and truth stay together, in the order asked for."""
    taken = log().take(rows)
    found = taken.impressions
    assert len(taken) == len(found) == len(rows)
    assert found.user_id.tolist() == [f"u{row}" for row in rows]
    assert found.item_id.tolist() == [f"i{row}" for row in rows]
    assert found.day.tolist() == [20240501 + row for row in rows]
    assert [found.context["tags"].at(i) for i in range(len(rows))] == [[str(row)] * row for row in rows]
    assert found.labels["click"].tolist() == rows.tolist()
    assert [found.inline["item.length_s"].at(i) for i in range(len(rows))] == [row * 10.0 for row in rows]
    assert taken.truth is not None
    assert taken.truth["click"].tolist() == [row / 10 for row in rows]


def test_take_by_a_mask_is_take_by_its_rows() -> None:
    """A mask over all rows, columns of lists included, picks the rows where it is true."""
    taken = log().take(np.array([False, True, False, True])).impressions
    assert taken.user_id.tolist() == ["u1", "u3"]
    assert [taken.context["tags"].at(i) for i in range(2)] == [["1"], ["3", "3", "3"]]


def test_a_log_without_truth_stays_without() -> None:
    """Real logs have no truth, and taking rows invents none."""
    assert Log(impressions(), {}).take(np.array([1])).truth is None


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("day", np.zeros(3, np.int32)),
        ("labels", {"click": np.zeros(3, np.float32)}),
        ("context", {"hour": Numbers(np.zeros(5))}),
        ("inline", {"item.price": Numbers(np.zeros(5))}),
    ],
)
def test_a_column_of_another_length_is_refused(column: str, values: object) -> None:
    """The error names the column."""
    given = {
        name: getattr(impressions(), name) for name in ("user_id", "item_id", "day", "context", "labels")
    }
    with pytest.raises(ValueError, match=rf"{column}.*for 4 impressions"):
        Impressions(**(given | {column: values}))


def test_truth_of_another_length_is_refused() -> None:
    """The error names the event."""
    with pytest.raises(ValueError, match=r"truth\.click: has 3 values for 4 impressions"):
        Log(impressions(), {}, {"click": np.zeros(3)})
