"""ESMM: the funnel that tasks make, probabilities that multiply, and what its networks learn through."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.bundle.manifest import TaskSpec
from tests.training import worlds
from tests.training.models.loops import deep, read, tower
from tests.training.models.test_mmoe import world
from tests.training.models.test_models import INPUTS, features
from training.config import ConfigError
from training.layers import Slots
from training.losses import MultiTaskLoss
from training.models import Inputs, MultiTaskModel, build
from training.models.esmm import (
    ESMM,
    LEAST_GAP,
    ESMMConfig,
    Step,
    conditional_logit,
    funnel,
    joint_logit,
)

Variant = Literal["product", "division"]


def spec(name: str, event: str | None = None, given: str | None = None) -> TaskSpec:
    """A binary task."""
    return TaskSpec(name=name, kind="binary", event=event or name, given=given)


FUNNEL = (
    spec("buy"),
    spec("buy_given_cart", "buy", "cart"),
    TaskSpec(name="watch", kind="regression", event="watch_s", given="click"),
    spec("cart_given_click", "cart", "click"),
    spec("click"),
    spec("cart"),
)
"""click -> cart -> buy, in no order, and a task beside it"""
BUY, BUY_GIVEN_CART, WATCH, CART_GIVEN_CLICK, CLICK, CART = range(6)


def model_of(variant: Variant) -> MultiTaskModel:
    """A model of the funnel whose every parameter counts."""
    model = build(ESMMConfig(embedding=4, hidden=(6, 5), variant=variant), INPUTS, FUNNEL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_a_funnel_is_read_off_the_masks() -> None:
    """A binary task with a mask is a step; steps come after those before them, whatever the order."""
    assert funnel(FUNNEL) == (Step(CLICK, CART_GIVEN_CLICK, CART), Step(CART, BUY_GIVEN_CART, BUY))
    fork = [spec("liked", "like", "click"), spec("shared", "share", "click")]
    assert funnel([spec("click"), spec("like"), spec("share"), *fork]) == (Step(0, 3, 1), Step(0, 4, 2))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([spec("click"), spec("like")], "needs a binary task with a mask, as buy where click"),
        ([spec("click"), spec("cvr", "buy", "click")], "cvr is learned through click and buy .*label 'buy'"),
        ([spec("buy"), spec("cvr", "buy", "click")], "cvr is learned through click and buy .*label 'click'"),
        (
            [spec("a"), spec("b"), spec("ab", "b", "a"), spec("ba", "a", "b")],
            "masks go in a circle: (a -> b -> a|b -> a -> b)",
        ),
        ([*FUNNEL, spec("ctr", "click")], "click and ctr both read 'click'; a funnel has one way to it"),
        ([*FUNNEL, spec("cvr", "buy", "click")], "buy_given_cart and cvr both read 'buy'"),
    ],
)
def test_what_is_no_funnel_is_refused(tasks: list[TaskSpec], message: str) -> None:
    """The message names the task and what to add."""
    with pytest.raises(ValueError, match=message):
        funnel(tasks)


LOGITS = st.floats(-50, 50, width=32)


@settings(deadline=None)
@given(before=LOGITS, conditional=LOGITS)
def test_a_product_of_probabilities_keeps_its_digits(before: float, conditional: float) -> None:
    """Its logit is that of float64 to float error, however near 0 or 1; gradients are of 0 to 1."""
    a, b = (torch.tensor(logit, requires_grad=True) for logit in (before, conditional))
    logit = joint_logit(a, b)
    exact = -np.logaddexp(np.logaddexp(-before, -conditional), -before - conditional)
    assert logit.item() == pytest.approx(exact, rel=1e-6, abs=1e-6)
    logit.backward()
    for gradient in (a.grad, b.grad):
        assert gradient is not None
        assert 0 <= gradient.item() <= 1 + 1e-5


@settings(deadline=None)
@given(before=LOGITS, conditional=st.floats(-50, 8, width=32))
def test_a_quotient_undoes_a_product(before: float, conditional: float) -> None:
    """p(buy) / p(cart) is the conditional again, to what float32 keeps of the difference of the two."""
    a = torch.tensor(before)
    found = conditional_logit(a, joint_logit(a, torch.tensor(conditional)))
    assert found.sigmoid().item() == pytest.approx(1 / (1 + np.exp(-conditional)), abs=0.03, rel=1e-3)


@settings(deadline=None)
@given(before=LOGITS, reached=LOGITS)
def test_a_quotient_is_a_probability(before: float, reached: float) -> None:
    """Where networks have buy more probable than cart, the guard gives nearly 1, finite with its gradient."""
    a, c = (torch.tensor(logit, requires_grad=True) for logit in (before, reached))
    logit = conditional_logit(a, c)
    assert logit.isfinite()
    assert logit.sigmoid() < 1
    if reached >= before:
        assert logit.item() >= -np.log(LEAST_GAP) - 1e-3
    logit.backward()
    assert a.grad is not None
    assert c.grad is not None
    assert a.grad.isfinite()
    assert c.grad.isfinite()


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("variant", ["product", "division"])
def test_esmm_equals_the_paper_written_as_loops(variant: Variant, rows: int) -> None:
    """A network a factor, or a probability; the rest of the funnel are their products, or quotients."""
    model = model_of(variant)
    network = cast(ESMM, model.network)
    batch = features(INPUTS, rows)
    direct = {
        "product": (BUY_GIVEN_CART, WATCH, CART_GIVEN_CLICK, CLICK),
        "division": (BUY, WATCH, CLICK, CART),
    }[variant]
    first = model.projections["networks"](read(model, batch)).relu().chunk(len(direct), 1)
    logits = model(*batch)
    p = logits.sigmoid()
    assert logits.shape == (6, rows)
    for at, task in enumerate(direct):
        expected = tower(network.towers.towers, at, deep(network.networks, at, first[at]))
        torch.testing.assert_close(logits[task], expected)
    for step in funnel(FUNNEL):
        if variant == "product":
            torch.testing.assert_close(p[step.reached], p[step.before] * p[step.conditional])
        else:
            possible = p[step.reached] < 0.99 * p[step.before]
            quotient = p[step.reached] / p[step.before]
            found = p[step.conditional]
            torch.testing.assert_close(found[possible], quotient[possible], rtol=1e-3, atol=1e-3)
            assert (found < 1).all()


def test_the_loss_of_a_product_is_its_cross_entropy() -> None:
    """−y log pq − (1 − y) log(1 − pq) over all impressions, where p = p(click) and q = p(cart | click)."""
    model = model_of("product").double()
    batch = [array.double() if array.is_floating_point() else array for array in features(INPUTS, 40)]
    logits = model(*batch)
    p = logits.sigmoid()
    labels = torch.full((6, 40), torch.nan, dtype=torch.float64)
    labels[CART] = torch.arange(40) % 3 == 0
    _, losses = MultiTaskLoss(["binary"] * 6).double()(logits, labels)
    whole = p[CLICK] * p[CART_GIVEN_CLICK]
    expected = -(labels[CART] * whole.log() + (1 - labels[CART]) * torch.log1p(-whole)).mean()
    torch.testing.assert_close(losses[CART], expected)


def labels_of(clicked: Tensor) -> Tensor:
    """Labels ``[6, B]`` of the funnel where every other click buys, masked as the trainer does."""
    bought = clicked * (torch.arange(len(clicked)) % 2)
    given_click = bought.where(clicked == 1, torch.nan)
    labels = {BUY: bought, CART: bought, CLICK: clicked, WATCH: given_click}
    labels |= {CART_GIVEN_CLICK: given_click, BUY_GIVEN_CART: bought.where(bought == 1, torch.nan)}
    return torch.stack([labels[task] for task in range(6)])


WEIGHTS = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
"""none for the conditional tasks"""


def conditional_network(model: MultiTaskModel, labels: Tensor) -> Tensor:
    """Gradient of the last layers of the networks, ``[S, H]``; cart_given_click is the third."""
    model.zero_grad()
    kinds = [task.kind for task in FUNNEL]
    MultiTaskLoss(kinds, WEIGHTS)(model(*features(INPUTS, labels.shape[1])), labels)[0].backward()
    gradient = cast(ESMM, model.network).towers.towers.last.weight.grad
    assert gradient is not None
    return gradient[2]


def test_a_conditional_network_learns_through_the_product_only() -> None:
    """What is logged of it after a click teaches nothing; what is logged over all impressions does."""
    torch.manual_seed(0)
    model = model_of("product")
    labels = labels_of((torch.arange(30) % 3 == 0).float())
    taught = conditional_network(model, labels)
    other = labels.clone()
    other[CART_GIVEN_CLICK] = 1 - other[CART_GIVEN_CLICK]
    assert torch.equal(conditional_network(model, other), taught)
    other[CART] = 1 - other[CART]
    assert not torch.allclose(conditional_network(model, other), taught)


def test_impressions_without_a_click_teach_the_conditional_network() -> None:
    """They are of the space that it is asked about."""
    torch.manual_seed(0)
    assert conditional_network(model_of("product"), labels_of(torch.zeros(30))).abs().sum() > 0


@pytest.mark.parametrize("variant", ["product", "division"])
def test_a_model_starts_at_the_rates_of_all_its_tasks(variant: Variant) -> None:
    """Entire-space and conditional alike, before it has looked at a feature."""
    model = model_of(variant)
    torch.nn.init.zeros_(cast(ESMM, model.network).towers.towers.last.weight)
    rates = torch.tensor([[0.002], [0.2], [0.7], [0.1], [0.1], [0.01]])  # buy = .1 (click) · .1 · .2
    model.start_at(rates.logit())
    torch.testing.assert_close(model(*features(INPUTS, 4)).sigmoid(), rates.expand(-1, 4))


CLICK_TASK: dict[str, Any] = {"name": "click"}
LIKE_TASK: dict[str, Any] = {"name": "like"}
CONDITIONAL_TASK: dict[str, Any] = {"name": "like_given_click", "label": "like", "mask": "click", "weight": 0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tasks": [CLICK_TASK, CONDITIONAL_TASK | {"weight": 1}, LIKE_TASK]},
            r"tasks\.like_given_click\.weight: 1 does not fit; esmm learns it through the entire-space tasks",
        ),
        (
            {"tasks": [CLICK_TASK, CONDITIONAL_TASK, LIKE_TASK | {"weight": 0}]},
            r"tasks\.like\.weight: 0 does not fit; nothing else trains it",
        ),
        (
            {"tasks": [CLICK_TASK, CONDITIONAL_TASK]},
            "tasks: like_given_click is learned through .*add a binary task with label 'like' and no mask",
        ),
        (
            {"model": worlds.MMOE},
            r"tasks\.like_given_click\.weight: 0 does not fit; nothing else trains it",
        ),
    ],
)
def test_a_config_says_which_tasks_have_a_loss(changed: dict[str, Any], message: str) -> None:
    """Weight 0 is for conditional tasks of an ESMM, and for them it is a must."""
    whole = worlds.QUICK | {"model": {"name": "esmm"}, "tasks": [CLICK_TASK, CONDITIONAL_TASK, LIKE_TASK]}
    assert [task.weight for task in worlds.config(**whole).tasks] == [1, 0, 1]
    with pytest.raises(ConfigError, match=message):
        worlds.config(**whole | changed)


def test_a_conditional_probability_is_found_over_all_impressions() -> None:
    """Without a loss of its own, and where there was no click as well: within 0.06 of the truth."""
    torch.manual_seed(1)
    tasks = (spec("click"), spec("like_given_click", "like", "click"), spec("like"))
    inputs = Inputs(12, Slots(singles=(0,)), Slots(singles=(6,)), Slots(values=1))
    model = build(ESMMConfig(embedding=8, hidden=(32, 16)), inputs, tasks)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loss = MultiTaskLoss(["binary"] * 3, [1.0, 0.0, 1.0])
    for step in range(300):
        batch, (click, like, _), _ = world(512, seed=step)
        optimizer.zero_grad()
        loss(model(*batch), torch.stack([click, like, like.nan_to_num(0.0)]))[0].backward()
        optimizer.step()
    batch, (click, _, _), truth = world(5000, seed=10_000)
    with torch.no_grad():
        apart = (model(*batch)[1].sigmoid() - torch.tensor(truth["like"])).abs()
    for clicked in (0, 1):
        assert apart[click == clicked].mean() < 0.06
