"""From impressions to tensors: labels under their masks, the split by time, batches, embedding offsets."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.bundle.columns import Texts, strings
from service.bundle.errors import FeatureError
from service.bundle.schema import Side
from service.bundle.vocabulary import Vocabulary
from tests.training import worlds
from tests.training.worlds import Prepared
from training.config import ConfigError, SplitConfig, TaskConfig
from training.examples import Examples, encode, masked_label, model_inputs, split_log, transform
from training.impressions import Impressions, Log

NAN = math.nan


def logged(**labels: NDArray[np.float32]) -> Impressions:
    """Impressions of which nothing but their labels matters."""
    n = len(next(iter(labels.values())))
    ids = strings(map(str, range(n)))
    return Impressions(user_id=ids, item_id=ids, day=np.zeros(n, np.int32), context={}, labels=labels)


def floats(*values: float) -> NDArray[np.float32]:
    """A column of labels."""
    return np.array(values, np.float32)


def test_a_mask_leaves_rows_out() -> None:
    """A row counts where the mask's label is 1; where that is 0 or unknown, the task's label is NaN."""
    rows = logged(click=floats(1, 0, 1, NAN, 1), like=floats(1, 0, 0, 1, NAN))
    masked = masked_label(TaskConfig(name="like", mask="click"), rows)
    assert masked.dtype == np.float32
    np.testing.assert_array_equal(masked, floats(1, NAN, 0, NAN, NAN))
    np.testing.assert_array_equal(masked_label(TaskConfig(name="like"), rows), rows.labels["like"])


@pytest.mark.parametrize(
    ("task", "key"),
    [(TaskConfig(name="buy"), "label"), (TaskConfig(name="click", mask="show"), "mask")],
)
def test_a_label_that_the_log_lacks_is_named(task: TaskConfig, key: str) -> None:
    """With the key of the config, and the labels there are."""
    with pytest.raises(FeatureError, match=rf"tasks\.{task.name}\.{key}: the log has no label .* has click"):
        masked_label(task, logged(click=floats(1, 0)))


def test_an_event_is_zero_or_one() -> None:
    """A binary task on a number, or a mask that is one, is a slip of the config; a value is shown."""
    rows = logged(watch_s=floats(0, 12.5, NAN), click=floats(0, 1, NAN))
    with pytest.raises(
        ConfigError, match=r"tasks\.watch_s\.label: 'watch_s' holds 12\.5.*kind = 'regression'"
    ):
        masked_label(TaskConfig(name="watch_s"), rows)
    with pytest.raises(
        ConfigError, match=r"tasks\.click\.mask: 'watch_s' holds 12\.5, and an event is 0 or 1$"
    ):
        masked_label(TaskConfig(name="click", mask="watch_s"), rows)
    regression = TaskConfig(name="watch_s", kind="regression", mask="click")
    np.testing.assert_array_equal(masked_label(regression, rows), floats(NAN, 12.5, NAN))


def test_a_transform_is_the_labels() -> None:
    """log1p for the loss, nothing below zero, NaN stays masked; without one the label is as it was."""
    watch = TaskConfig(name="watch", kind="regression", transform="log1p")
    np.testing.assert_allclose(transform(watch, floats(0, 1, -3, NAN)), floats(0, math.log(2), 0, NAN))
    plain = TaskConfig(name="watch", kind="regression")
    np.testing.assert_array_equal(transform(plain, floats(0, -3, NAN)), floats(0, -3, NAN))


def test_the_split_is_by_day() -> None:
    """Both bounds belong to the earlier part, and no impression is lost or twice."""
    log = worlds.log(600)
    parts = split_log(log, SplitConfig.model_validate({"train_until": 20240501, "validate_until": 20240503}))
    days = {name: set(part.impressions.day.tolist()) for name, part in parts.items()}
    assert days == {
        "train": {20240429, 20240430, 20240501},
        "validate": {20240502, 20240503},
        "test": {20240504},
    }
    assert sum(map(len, parts.values())) == len(log)
    assert log.truth is not None
    assert sum(part.truth["click"].sum() for part in parts.values() if part.truth) == pytest.approx(
        log.truth["click"].sum()
    )


@pytest.mark.parametrize(
    ("train_until", "validate_until", "part"),
    [(20240401, 20240501, "train"), (20240504, 20240505, "validate"), (20240501, 20240504, "test")],
)
def test_an_empty_part_is_an_error(train_until: int, validate_until: int, part: str) -> None:
    """It says which part, and which days there are."""
    split = SplitConfig(train_until=train_until, validate_until=validate_until)
    with pytest.raises(ConfigError, match=f"no impressions to {part}; .* 20240429 to 20240504"):
        split_log(worlds.log(600), split)


def test_an_empty_log_is_an_error() -> None:
    """And no crash on its days."""
    empty = worlds.log(10).take(np.empty(0, np.int64))
    with pytest.raises(ConfigError, match="no impressions to train"):
        split_log(empty, SplitConfig(train_until=20240501, validate_until=20240502))


def test_impressions_become_tensors() -> None:
    """A row an impression in all six arrays and the labels, which stand in the order of the tasks."""
    prepared = worlds.prepare(worlds.log(300))
    log, examples = prepared.parts["train"], prepared.examples["train"]
    assert [len(array) for array in examples.arrays] == [len(examples)] * 6 == [len(log)] * 6
    click, like, watch = examples.labels
    labels = {name: torch.from_numpy(label) for name, label in log.impressions.labels.items()}
    assert torch.equal(click, labels["click"])
    assert torch.equal(like.isnan(), labels["click"] == 0)
    clicked = labels["click"] == 1
    torch.testing.assert_close(watch[clicked], labels["watch_s"][clicked].log1p())


def rows_of(prepared: Prepared, positions: Iterable[str | None]) -> list[int]:
    """Rows of the positions in their vocabulary."""
    vocabulary = prepared.encoder.vocabularies["position"]
    assert isinstance(vocabulary, Vocabulary)
    rows: list[int] = vocabulary.rows(positions).tolist()
    return rows


def test_training_sees_the_position_that_was() -> None:
    """A `train_only` feature has its logged value here, though serving gives it a constant."""
    prepared = worlds.prepare(worlds.log(300), **worlds.QUICK)
    block = next(b for b in prepared.encoder.schema.layout(Side.USER).index if b.feature == "position")
    logged = prepared.examples["train"].arrays[0][:, block.slots].flatten()
    positions = prepared.parts["train"].impressions.context["position"]
    assert isinstance(positions, Texts)
    known = rows_of(prepared, positions.values)
    assert logged.tolist() == known
    assert len(set(logged.tolist())) == 5


def test_serving_sees_the_constant() -> None:
    """Encoded as it would be served, every impression has the constant, and all else as it was."""
    prepared = worlds.prepare(worlds.log(300), **worlds.QUICK)
    impressions, layout = prepared.parts["test"].impressions, prepared.encoder.schema.layout(Side.USER)
    logged, served = (
        encode(prepared.encoder, impressions, prepared.config.tasks, serving=serving).arrays
        for serving in (False, True)
    )
    for block in layout.index:
        ours, theirs = (arrays[0][:, block.slots] for arrays in (served, logged))
        if block.feature == "position":
            assert ours.unique().tolist() == rows_of(prepared, ["0"])
        else:
            assert torch.equal(ours, theirs)
    assert torch.equal(served[2], logged[2])


def examples_of(rows: int) -> Examples:
    """Examples whose every number is the row's."""
    numbers = torch.arange(rows)
    return Examples((numbers.unsqueeze(1),) * 6, numbers.float().unsqueeze(0))


def test_batches_hold_every_row_once() -> None:
    """In order without a generator; with one in an order of its seed, arrays and labels together."""
    whole = examples_of(10)
    plain = [batch.labels[0].tolist() for batch in whole.batches(4)]
    assert plain == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    orders = []
    for seed in (1, 1, 2):
        batches = list(whole.batches(4, torch.Generator().manual_seed(seed)))
        assert all(torch.equal(batch.arrays[5][:, 0].float(), batch.labels[0]) for batch in batches)
        orders.append([row for batch in batches for row in batch.labels[0].tolist()])
    assert sorted(orders[0]) == list(range(10))
    assert orders[0] == orders[1] != orders[2]


def test_vocabularies_lie_one_after_another() -> None:
    """Every slot of the model's inputs points to its vocabulary's rows, and none beyond them."""
    prepared = worlds.prepare(worlds.log(300))
    schema, inputs = prepared.encoder.schema, model_inputs(prepared.encoder.schema)
    specs = schema.fitted.vocabularies
    starts = dict(zip(specs, np.cumsum([0, *(spec.rows for spec in specs.values())]).tolist(), strict=False))
    assert inputs.rows == sum(spec.rows for spec in specs.values())
    for side, slots in zip(Side, (inputs.user, inputs.item, inputs.cross), strict=True):
        layout = schema.layout(side)
        assert (slots.indices, slots.values) == (layout.index_width, layout.value_width)
        offsets = [*slots.singles, *(pool.offset for pool in slots.pooled)]
        assert offsets == [starts[block.vocabulary or ""] for block in layout.index]


def test_a_log_without_truth_splits() -> None:
    """Truth is a synthetic log's alone."""
    log = worlds.log(600)
    parts = split_log(Log(log.impressions, log.tables), SplitConfig.model_validate(worlds.SPLIT))
    assert all(part.truth is None for part in parts.values())
