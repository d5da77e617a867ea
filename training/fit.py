"""The training loop: epochs of steps, validation, early stopping, the best weights kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.config import ConfigError, TaskConfig, TrainConfig
from training.examples import Examples
from training.losses import MultiTaskLoss
from training.models import MultiTaskModel

WARM_UP = 0.05
"""share of all steps in which the learning rate rises"""

EVALUATION_BATCH = 8192


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        number: from 1.
        train_loss: mean of the steps' losses.
        combined: validation loss relative to a constant's; less is better, 1 has learned nothing.
        relative: the same for each task.
    """

    number: int
    train_loss: float
    combined: float
    relative: dict[str, float] = field(default_factory=dict)


Progress = Callable[[int, int, float], None]
"""told of every step: steps done, steps at most, loss"""

Finished = Callable[[Epoch], None]
"""told of every epoch as it ends"""


def fit(
    model: MultiTaskModel,
    train: Examples,
    validate: Examples,
    tasks: Sequence[TaskConfig],
    config: TrainConfig,
    seed: int,
    progress: Progress,
    finished: Finished = lambda epoch: None,
) -> list[Epoch]:
    """Train a model in place and leave it with the weights of its best epoch; returns the epochs run.

    The best epoch has the least ``Σ_t w_t · L_t / L_t⁰ / Σ_t w_t`` over the validation part: L_t is a task's
    loss, L_t⁰ that of a constant, the training part's mean label, so that tasks of all rates weigh alike.

    Raises:
        ConfigError: a task has nothing to learn from.
        FloatingPointError: the loss is not finite; a smaller learning rate may help.
    """
    _check_labels(train, tasks)
    loss = MultiTaskLoss([task.kind for task in tasks], [task.weight for task in tasks])
    steps = config.epochs * math.ceil(len(train) / config.batch_size)
    optimizer, schedule = _optimizer(model, config, steps)
    shuffle = torch.Generator().manual_seed(seed)
    constant = _start(model, train, validate, loss)
    epochs, best = list[Epoch](), dict[str, Tensor]()
    for number in range(1, config.epochs + 1):
        losses: list[float] = []
        model.train()
        for batch in train.batches(config.batch_size, shuffle):
            losses.append(_step(model, batch, loss, optimizer, schedule))
            progress((number - 1) * steps // config.epochs + len(losses), steps, losses[-1])
        epochs.append(_validated(model, validate, tasks, loss, constant, number, losses))
        finished(epochs[-1])
        if epochs[-1] is best_of(epochs):
            best = copy.deepcopy(model.state_dict())
        elif number - best_of(epochs).number >= config.patience:
            break
    model.load_state_dict(best)
    return epochs


def best_of(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights are kept; the first of equals."""
    return min(epochs, key=lambda epoch: epoch.combined)


def learning_rate_factor(step: int, steps: int) -> float:
    """What the learning rate is multiplied by: up from 0 over the warm-up, then a cosine down to a tenth."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    done = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


@torch.inference_mode()
def logits_of(model: MultiTaskModel, examples: Examples) -> Tensor:
    """Logits ``[T, B]`` of all examples."""
    model.eval()
    return torch.cat([model(*batch.arrays) for batch in examples.batches(EVALUATION_BATCH)], dim=1)


def _step(
    model: MultiTaskModel,
    batch: Examples,
    loss: MultiTaskLoss,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    total: Tensor
    total, _ = loss(model(*batch.arrays), batch.labels)
    if not total.isfinite():
        raise FloatingPointError("the loss is not finite; lower train.learning_rate or look at the labels")
    total.backward()
    optimizer.step()
    schedule.step()
    return total.item()


def _optimizer(
    model: MultiTaskModel, config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and the learning rate's way; embeddings decay by their own measure, biases not at all."""
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        decay = config.embedding_decay if "table" in name else config.weight_decay
        groups.setdefault(0.0 if name.endswith("bias") else decay, []).append(parameter)
    parameters = [{"params": group, "weight_decay": decay} for decay, group in groups.items()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps)
    )


def _check_labels(train: Examples, tasks: Sequence[TaskConfig]) -> None:
    for task, labels in zip(tasks, train.labels, strict=True):
        if labels.isnan().all():
            where = f" where {task.mask!r} is 1" if task.mask else ""
            raise ConfigError(f"tasks.{task.name}: no training impression has a label {task.event!r}{where}")


def _start(model: MultiTaskModel, train: Examples, validate: Examples, loss: MultiTaskLoss) -> Tensor:
    """Begin at each task's constant logit, that of its mean label; its validation loss ``[T]``.

    The mean is the best constant for a probability, and near it for Huber's loss.
    1 stands for the loss of a task that has no validation label, or that a constant gets right.
    """
    mean = train.labels.nanmean(1, keepdim=True)
    logits = torch.where(loss.binary, mean.clamp(1e-6, 1 - 1e-6).logit(), mean)
    model.start_at(logits)
    model.ignore_constants(train.arrays[1::2])
    losses: Tensor = loss(logits.expand_as(validate.labels), validate.labels)[1]
    return torch.where(losses > 0, losses, 1.0)


def _validated(
    model: MultiTaskModel,
    validate: Examples,
    tasks: Sequence[TaskConfig],
    loss: MultiTaskLoss,
    constant: Tensor,
    number: int,
    losses: Sequence[float],
) -> Epoch:
    relative = loss(logits_of(model, validate), validate.labels)[1] / constant
    if not relative.isfinite().all():
        raise FloatingPointError("the validation loss is not finite; lower train.learning_rate")
    combined = float((relative * loss.weights).sum() / loss.weights.sum())
    by_task = {task.name: float(value) for task, value in zip(tasks, relative, strict=True)}
    return Epoch(number, sum(losses) / len(losses), combined, by_task)
