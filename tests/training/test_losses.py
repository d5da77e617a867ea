"""The loss against its definition, row by row, and what a mask keeps out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.losses import Kind, MultiTaskLoss, masked_mean

KINDS: tuple[Kind, ...] = ("binary", "regression", "binary")
NAN = math.nan


def loss_of(kind: Kind, logit: float, label: float) -> float:
    """One row's loss, by its definition."""
    if kind == "binary":
        p = 1 / (1 + math.exp(-logit))
        return -(label * math.log(p) + (1 - label) * math.log1p(-p))
    error = abs(logit - label)
    return error**2 / 2 if error <= 1 else error - 0.5


def cells(rows: int) -> st.SearchStrategy[list[list[tuple[float, float]]]]:
    """Logits and labels of the three tasks, any of them missing."""
    logits = st.floats(-8, 8)
    zero_one, number = st.sampled_from([0.0, 1.0, NAN]), st.one_of(st.floats(-20, 20), st.just(NAN))
    binary = st.lists(st.tuples(logits, zero_one), min_size=rows, max_size=rows)
    return st.tuples(binary, st.lists(st.tuples(logits, number), min_size=rows, max_size=rows), binary).map(
        list
    )


@settings(deadline=None)
@given(batch=st.integers(1, 6).flatmap(cells), weights=st.tuples(*[st.floats(0, 5)] * 3))
def test_each_task_is_the_mean_over_its_labels(
    batch: list[list[tuple[float, float]]], weights: tuple[float, ...]
) -> None:
    """Every task averages the rows that have its label, 0 where none has, and weights make the sum."""
    expected = []
    for kind, task in zip(KINDS, batch, strict=True):
        seen = [loss_of(kind, logit, label) for logit, label in task if not math.isnan(label)]
        expected.append(sum(seen) / max(len(seen), 1))
    logits, labels = torch.tensor(batch, dtype=torch.float32).unbind(2)
    total, losses = MultiTaskLoss(KINDS, weights)(logits, labels)
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    weighted = sum(weight * loss for weight, loss in zip(weights, expected, strict=True))
    assert total.item() == pytest.approx(weighted, rel=1e-4, abs=1e-4)


def gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the sum of the losses, at the logits."""
    logits = logits.clone().requires_grad_()
    MultiTaskLoss(KINDS)(logits, labels)[0].backward()
    assert logits.grad is not None
    return logits.grad


def test_masked_rows_get_no_gradient() -> None:
    """A NaN label leaves exactly zero at its logit and a finite gradient elsewhere."""
    logits = torch.tensor([[90.0, -2.0, 3.0], [1e4, 0.5, -7.0], [-90.0, 0.0, 1.0]])
    labels = torch.tensor([[NAN, 1.0, 0.0], [NAN, 2.0, NAN], [0.0, NAN, 1.0]])
    slope = gradient(logits, labels)
    assert slope.isfinite().all()
    assert torch.equal(
        slope == 0, labels.isnan() | torch.tensor([[False] * 3, [False] * 3, [True, False, False]])
    )


def test_a_task_without_labels_has_no_loss_and_no_gradient() -> None:
    """A batch with nobody in a task's space trains the other tasks, and nothing becomes NaN."""
    labels = torch.tensor([[NAN, NAN], [1.0, 2.0], [0.0, 1.0]])
    total, losses = MultiTaskLoss(KINDS)(torch.ones(3, 2), labels)
    assert losses[0] == 0
    assert total.isfinite()
    slope = gradient(torch.ones(3, 2), labels)
    assert slope.isfinite().all()
    assert torch.equal(slope[0], torch.zeros(2))
    assert slope[1:].any()


def test_confident_logits_keep_their_gradient() -> None:
    """The loss is taken from logits: one that is surely wrong still learns, where ln(sigmoid) would be −∞."""
    logits, labels = torch.tensor([[-200.0], [0.0], [200.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    _, losses = MultiTaskLoss(KINDS)(logits, labels)
    torch.testing.assert_close(losses, torch.tensor([200.0, 0.0, 200.0]))
    torch.testing.assert_close(gradient(logits, labels), torch.tensor([[-1.0], [0.0], [1.0]]))


def test_the_loss_does_not_grow_with_the_batch() -> None:
    """A batch doubled has the same loss: steps are as large whatever the batch size."""
    logits, labels = torch.randn(3, 8), torch.randint(0, 2, (3, 8)).float()
    loss = MultiTaskLoss(KINDS)
    once, twice = loss(logits, labels)[1], loss(logits.repeat(1, 2), labels.repeat(1, 2))[1]
    torch.testing.assert_close(once, twice)


def test_a_masked_mean_counts_what_is_present() -> None:
    """Absent values neither add nor count."""
    values, present = (
        torch.tensor([[1.0, 2.0, 9.0], [5.0, 5.0, 5.0]]),
        torch.tensor([[1, 1, 0], [0, 0, 0]]).bool(),
    )
    assert masked_mean(values, present).tolist() == [1.5, 0.0]


def test_weights_that_do_not_match_the_tasks_are_refused() -> None:
    """A weight too few is an error, not a broadcast."""
    with pytest.raises(ValueError, match="weights: 1 for 3 tasks"):
        MultiTaskLoss(KINDS, (1.0,))


def test_settings_are_no_part_of_a_checkpoint() -> None:
    """A checkpoint of a run says nothing of its loss, so a config may change the weights between two."""
    assert MultiTaskLoss(KINDS).state_dict() == {}
