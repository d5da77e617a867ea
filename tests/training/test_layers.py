"""Every layer against the loop that it replaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.layers import (
    BatchedLinear,
    ExpertStack,
    Gates,
    Pooled,
    Projection,
    SideEmbedding,
    Slots,
    Towers,
    embedding_table,
    mix,
)

ROWS = 40


def sides(max_pooled: int = 3) -> st.SearchStrategy[Slots]:
    """Slots of every shape, none of a kind included, whose indices 0 to 4 stay within ROWS rows."""
    offsets = st.integers(0, ROWS - 5)

    def make(singles: list[int], pools: list[tuple[int, int]], values: int) -> Slots:
        pooled, start = [], len(singles)
        for length, offset in pools:
            pooled.append(Pooled(start, length, offset))
            start += length
        return Slots(tuple(singles), tuple(pooled), values)

    pools = st.lists(st.tuples(st.integers(1, 4), offsets), max_size=max_pooled)
    return st.builds(make, st.lists(offsets, max_size=3), pools, st.integers(0, 3))


def arrays(slots: Slots, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Some index and value arrays of a side."""
    random = np.random.default_rng(seed)
    index = random.integers(0, 5, (rows, slots.indices), dtype=np.int32)
    return torch.from_numpy(index), torch.from_numpy(
        random.normal(size=(rows, slots.values)).astype(np.float32)
    )


def embedded_naively(slots: Slots, weight: Tensor, index: list[int], value: Tensor) -> Tensor:
    """One row's input, slot by slot."""
    width = weight.shape[1]
    parts = [weight[index[slot] + offset] for slot, offset in enumerate(slots.singles)]
    for pool in slots.pooled:
        seen = [i for i in index[pool.start : pool.start + pool.length] if i != 0]
        rows = [weight[i + pool.offset] for i in seen]
        parts.append(sum(rows, torch.zeros(width)) / max(len(rows), 1))
    return torch.cat([*parts, value])


@settings(deadline=None)
@given(slots=sides(), rows=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_side_is_its_slots_embedded_one_by_one(slots: Slots, rows: int, seed: int) -> None:
    """Singles, pooled means and values come in this order, each as a loop over slots computes it."""
    side = SideEmbedding(slots, embedding_table(ROWS, 3))
    index, value = arrays(slots, rows, seed)
    x = side(index, value)
    assert x.shape == (rows, side.width)
    for row in range(rows):
        expected = embedded_naively(slots, side.table.weight, index[row].tolist(), value[row])
        torch.testing.assert_close(x[row], expected)


def test_padding_alone_pools_to_zeros() -> None:
    """A user without a history gets a zero vector, not the embedding of the unknown."""
    side = SideEmbedding(Slots(pooled=(Pooled(0, 3, 7),)), embedding_table(ROWS, 4))
    x = side(torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 0))
    assert torch.equal(x, torch.zeros(2, 4))


def test_padding_gets_no_gradient() -> None:
    """Row 0 of a pooled vocabulary is never trained by padding."""
    table = embedding_table(ROWS, 4)
    side = SideEmbedding(Slots(pooled=(Pooled(0, 3, 7),)), table)
    side(torch.tensor([[0, 2, 0]], dtype=torch.int32), torch.zeros(1, 0)).sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [9]


def test_pooled_slots_with_a_gap_are_refused() -> None:
    """Slots that no feature owns would be read as another's."""
    with pytest.raises(ValueError, match=r"pooled\[0\].start is 2; the next slot is 1"):
        SideEmbedding(Slots(singles=(0,), pooled=(Pooled(2, 3, 0),)), embedding_table(ROWS, 4))


def test_embedding_dropout_spares_values_and_serving() -> None:
    """Dropout acts on embeddings, in training only."""
    slots = Slots(singles=(0, 5), values=2)
    side = SideEmbedding(slots, embedding_table(ROWS, 50), dropout=0.5)
    index, value = arrays(slots, 3)
    dropped = side(index, value)
    assert 0.3 < (dropped[:, :100] == 0).float().mean() < 0.7
    assert torch.equal(dropped[:, 100:], value)
    assert torch.equal(side.eval()(index, value), side(index, value))
    assert (side(index, value) != 0).all()


@settings(deadline=None)
@given(widths=st.tuples(*[st.integers(0, 4)] * 3).filter(any), rows=st.integers(1, 4))
def test_a_projection_is_the_sum_of_its_sides(widths: tuple[int, int, int], rows: int) -> None:
    """User, item and cross parts add up to the whole, sides of no width included."""
    projection = Projection(widths, 6)
    torch.nn.init.normal_(projection.bias)
    parts = [torch.randn(rows, width) for width in widths]
    split = projection.user(parts[0]) + projection.item(parts[1]) + projection.cross(parts[2])
    whole = projection(torch.cat(parts, 1))
    torch.testing.assert_close(split, whole)
    torch.testing.assert_close(whole, torch.cat(parts, 1) @ projection.weight + projection.bias)


def experts_naively(stack: ExpertStack, first: Tensor) -> list[Tensor]:
    """Every expert on its own, layer by layer."""
    outputs = []
    for expert, units in enumerate(first.chunk(stack.experts, 1)):
        y = units.relu()
        for layer in stack.deeper:
            if isinstance(layer, BatchedLinear):
                y = (y @ layer.weight[expert] + layer.bias[expert]).relu()
        outputs.append(y)
    return outputs


@pytest.mark.parametrize("hidden", [(5,), (5, 4), (6, 5, 3)])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("experts", [1, 3])
def test_experts_equal_a_loop_over_experts(experts: int, rows: int, hidden: tuple[int, ...]) -> None:
    """One batched matmul a layer is every expert computed alone."""
    stack = ExpertStack(experts, hidden)
    first = torch.randn(rows, experts * hidden[0])
    outputs = stack(first)
    assert outputs.shape == (experts, rows, hidden[-1])
    for output, expected in zip(outputs, experts_naively(stack, first), strict=True):
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("rows", [1, 5])
def test_a_mix_equals_a_loop_over_tasks_and_experts(rows: int) -> None:
    """Task t of row b gets Σ_e gate[b, t, e]·expert[e, b]."""
    gates, experts = torch.rand(rows, 3, 4), torch.randn(4, rows, 6)
    mixed = mix(gates, experts)
    assert mixed.shape == (3, rows, 6)
    for task in range(3):
        for row in range(rows):
            expected = sum(gates[row, task, expert] * experts[expert, row] for expert in range(4))
            torch.testing.assert_close(mixed[task, row], expected)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6)])
@pytest.mark.parametrize("rows", [1, 7])
def test_gates_equal_a_loop_over_gates(rows: int, hidden: tuple[int, ...], temperature: float) -> None:
    """Each gate is a softmax over the experts, after layers of its own if it has hidden ones."""
    gates = Gates(3, 4, hidden, temperature)
    first = torch.randn(rows, 3 * gates.units)
    shares = gates(first)
    assert shares.shape == (rows, 3, 4)
    deeper = [layer for layer in gates.deeper if isinstance(layer, BatchedLinear)]
    assert len(deeper) == len(hidden)
    for gate, y in enumerate(first.chunk(3, 1)):
        for layer in deeper:
            y = y.relu() @ layer.weight[gate] + layer.bias[gate]
        torch.testing.assert_close(shares[:, gate], (y / temperature).softmax(1))


def test_a_temperature_makes_gates_even_or_choosy() -> None:
    """The largest share falls as it rises."""
    torch.manual_seed(0)
    first = torch.randn(500, 8)
    largest = [Gates(2, 4, (), temperature)(first).amax(2).mean() for temperature in (0.1, 1.0, 10.0)]
    assert largest[0] > 0.8 > largest[1] > 0.4 > largest[2]


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("rows", [1, 5])
def test_towers_equal_a_loop_over_tasks(rows: int, inputs: int, hidden: tuple[int, ...]) -> None:
    """Each tower reads its own input, or the one that all share, and ends in a logit."""
    towers = Towers(3, 6, hidden)
    x = torch.randn(inputs, rows, 6)
    logits = towers(x)
    assert logits.shape == (3, rows)
    layers = [*(layer for layer in towers.hidden if isinstance(layer, BatchedLinear)), towers.last]
    for task in range(3):
        y = x[task % inputs]
        for layer in layers:
            y = y @ layer.weight[task] + layer.bias[task]
            y = y if layer is layers[-1] else y.relu()
        torch.testing.assert_close(logits[task], y.squeeze(1))


def test_towers_start_where_they_are_told() -> None:
    """Without an input, every logit is the one given."""
    towers = Towers(3, 6, (4,))
    logits = torch.tensor([[-4.0], [0.5], [2.0]])
    towers.start_at(logits)
    torch.testing.assert_close(towers(torch.zeros(1, 5, 6)), logits.expand(3, 5))


def test_experts_and_towers_start_unlike_each_other() -> None:
    """Layers that start equal get equal gradients and stay one layer for ever."""
    for module in (ExpertStack(6, (8, 7)), Towers(6, 8, (7,))):
        for layer in module.modules():
            if isinstance(layer, BatchedLinear):
                assert torch.pdist(layer.weight.flatten(1)).min() > 0.1


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_weights_keep_the_variance_of_their_input(gain: float) -> None:
    """Weights are drawn with variance gain²/fan-in, so that no width of a layer blows scores up."""
    expected = gain / 200**0.5
    assert Projection((50, 100, 50), 400, gain=gain).weight.std().item() == pytest.approx(expected, rel=0.05)
    assert BatchedLinear(4, 200, 100, gain=gain).weight.std().item() == pytest.approx(expected, rel=0.05)


def test_dropout_acts_in_training_only() -> None:
    """Experts and towers drop units in training and are deterministic in evaluation."""
    stack, towers = ExpertStack(3, (8, 6), dropout=0.5), Towers(3, 6, (8,), dropout=0.5)
    first = torch.randn(20, 24)
    assert not torch.equal(stack(first), stack(first))
    experts = stack.eval()(first)
    assert torch.equal(stack(first), experts)
    assert not torch.equal(towers(experts), towers(experts))
    assert torch.equal(towers.eval()(experts), towers(experts))
