"""What holds for every architecture: split equals whole, rows are apart, every weight learns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from service.bundle.manifest import TaskSpec
from tests.training.test_layers import ROWS, arrays, sides
from training.layers import Pooled, Slots
from training.models import Inputs, ModelConfig, MultiTaskModel, build
from training.models.esmm import ESMMConfig
from training.models.mmoe import MMoEConfig
from training.models.ple import PLEConfig
from training.models.shared_bottom import SharedBottomConfig
from training.models.single_task import SingleTaskConfig

TASKS = (
    TaskSpec(name="click", kind="binary", event="click"),
    TaskSpec(name="like_given_click", kind="binary", event="like", given="click"),
    TaskSpec(name="like", kind="binary", event="like"),
)
"""which make a funnel, for models that want one"""
CONFIGS = (
    MMoEConfig(embedding=4, experts=3, expert_hidden=(6, 5), tower_hidden=(4,)),
    MMoEConfig(embedding=4, experts=2, expert_hidden=(5,), tower_hidden=()),
    MMoEConfig(embedding=4, experts=3, expert_hidden=(5,), gate_hidden=(6, 5), gate_temperature=2.0),
    MMoEConfig(name="omoe", embedding=4, experts=3, expert_hidden=(6, 5), tower_hidden=(4,)),
    PLEConfig(embedding=4, specific_experts=2, shared_experts=3, levels=((6, 5),)),
    PLEConfig(embedding=4, specific_experts=1, shared_experts=2, levels=((6,), (9, 8), (12,))),
    PLEConfig(embedding=4, specific_experts=0, shared_experts=3, levels=((6,), (8,)), gate_hidden=(6,)),
    ESMMConfig(embedding=4, hidden=(6, 5)),
    ESMMConfig(embedding=4, hidden=(6,), variant="division"),
    SingleTaskConfig(embedding=4, hidden=(6, 5)),
    SharedBottomConfig(embedding=4, bottom_hidden=(6, 5), tower_hidden=(4,)),
    SharedBottomConfig(embedding=4, bottom_hidden=(5,), tower_hidden=()),
)
INPUTS = Inputs(
    ROWS,
    Slots(singles=(0, 5), pooled=(Pooled(2, 4, 10),), values=2),
    Slots(singles=(10, 15), values=1),
    Slots(singles=(20,), values=2),
)


def model_of(config: ModelConfig, inputs: Inputs = INPUTS) -> MultiTaskModel:
    """A model whose every parameter counts, biases and embeddings included."""
    model = build(config, inputs, TASKS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def features(inputs: Inputs, rows: int) -> tuple[Tensor, ...]:
    """The six arrays of a batch."""
    user, item, cross = (
        arrays(inputs.user, rows, 1),
        arrays(inputs.item, rows, 2),
        arrays(inputs.cross, rows, 3),
    )
    return (*user, *item, *cross)


@settings(deadline=None)
@given(
    config=st.sampled_from(CONFIGS),
    inputs=st.builds(Inputs, st.just(ROWS), sides(), sides(), sides()),
    rows=st.integers(1, 5),
    one_user=st.booleans(),
)
def test_split_equals_whole(config: ModelConfig, inputs: Inputs, rows: int, one_user: bool) -> None:
    """User once, items ahead of time, then candidates: the logits of the model computed per row."""
    assume(any(slots.width(4) for slots in (inputs.user, inputs.item, inputs.cross)))
    model = model_of(config, inputs)
    user_index, user_value, item_index, item_value, *cross = features(inputs, rows)
    if one_user:
        user_index, user_value = user_index[:1], user_value[:1]
    # State arrays lie in an order of their own: candidate n finds its item in row rows - 1 - n.
    item_row = torch.arange(rows - 1, -1, -1, dtype=torch.int32)
    user, item = model.user_side(user_index, user_value), model.item_side(item_index, item_value)
    split = model.rank_side(user, item, item_row, *cross)
    whole = model(
        user_index.expand(rows, -1),
        user_value.expand(rows, -1),
        item_index[item_row],
        item_value[item_row],
        *cross,
    )
    assert whole.shape == (len(TASKS), rows)
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_row_alone_scores_as_among_others(config: ModelConfig) -> None:
    """No row's logits depend on its batch."""
    model = model_of(config)
    batch = features(INPUTS, 6)
    together = model(*batch)
    for row in range(6):
        alone = model(*(array[row : row + 1] for array in batch))
        torch.testing.assert_close(alone[:, 0], together[:, row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_is_trained(config: ModelConfig) -> None:
    """No weight of a model is left without a gradient from all tasks together."""
    torch.manual_seed(0)
    model = model_of(config)
    model(*features(INPUTS, 64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_out_of_the_loss_are_out_of_the_gradient(config: ModelConfig) -> None:
    """A batch trains the same with rows beside it that no loss reads."""
    model = model_of(config)
    batch = features(INPUTS, 6)
    model(*batch)[:, :4].sum().backward()
    masked = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model(*(array[:4] for array in batch)).sum().backward()
    for parameter, gradient in zip(model.parameters(), masked, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


def test_half_precision_state_scores_nearly_the_same() -> None:
    """State arrays may be float16: they are widened after the gather."""
    model = model_of(CONFIGS[0])
    user_index, user_value, item_index, item_value, *cross = features(INPUTS, 5)
    user, item = model.user_side(user_index, user_value), model.item_side(item_index, item_value)
    row = torch.arange(5, dtype=torch.int32)
    half = model.rank_side(user, {name: state.half() for name, state in item.items()}, row, *cross)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, model.rank_side(user, item, row, *cross), rtol=1e-2, atol=1e-2)


def test_the_sides_share_one_embedding_table() -> None:
    """A sequence of the user's and the candidate's id, of one vocabulary, read and train the same rows."""
    model = build(CONFIGS[0], INPUTS, TASKS)
    assert model.user.table is model.item.table is model.cross.table
    assert sum(parameter.shape == (ROWS, 4) for parameter in model.parameters()) == 1


def test_the_same_seed_builds_the_same_model() -> None:
    """Nothing but torch's generator decides the first weights."""
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build(CONFIGS[0], INPUTS, TASKS).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_config_names_its_architecture() -> None:
    """The name chooses the sizes that a config may give; others are refused."""
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    assert adapter.validate_python({"name": "mmoe", "experts": 4}) == MMoEConfig(experts=4)
    assert adapter.validate_python({"name": "shared_bottom"}) == SharedBottomConfig()
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        adapter.validate_python({"name": "shared_bottom", "experts": 4})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python({"name": "mlp"})
    with pytest.raises(ValidationError, match="at least 1 item"):
        MMoEConfig(expert_hidden=())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_number_that_never_varied_moves_no_score(config: ModelConfig) -> None:
    """After `ignore_constants`, and a step of training, only columns that vary weigh in the first layers."""
    model, seen = model_of(config), features(INPUTS, 6)
    values = [seen[1].clone(), seen[3].clone(), seen[5].clone()]
    values[0][:, 1] = 0.0  # a flag of the user's that is never set
    values[1][:, 0] = 1.0  # and one of the item's that always is
    model.ignore_constants(values)
    first = [values[0] if at == 1 else values[1] if at == 3 else array for at, array in enumerate(seen)]
    model(*first).square().sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    flagged = [array.clone() for array in first]
    flagged[1][:, 1] = flagged[3][:, 0] = 2.0
    torch.testing.assert_close(model(*flagged), model(*first))
    flagged[1][:, 0] += 1.0
    assert not torch.allclose(model(*flagged), model(*first))
