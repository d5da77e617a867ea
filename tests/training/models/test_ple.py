"""PLE against the paper's equations in loops, and what its experts and gates see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tests.training.models.loops import deep, read, tower
from tests.training.models.test_models import INPUTS, features, model_of
from training.models.mmoe import MMoEConfig
from training.models.ple import PLE, Level, PLEConfig

SHARED = 3
"""the stream after those of the three tasks"""
CONFIG = PLEConfig(
    embedding=4, specific_experts=2, shared_experts=3, levels=((16, 12), (14, 10)), tower_hidden=()
)


def network_of(**changes: object) -> PLE:
    """A network whose every parameter counts; no expert of its so narrow that it may be dead."""
    return cast(PLE, model_of(CONFIG.model_copy(update=changes)).network)


def owners(config: PLEConfig) -> list[int]:
    """The stream that each expert of a level belongs to."""
    specific = [task for task in range(3) for _ in range(config.specific_experts)]
    return specific + [SHARED] * config.shared_experts


def seen(stream: int, config: PLEConfig) -> list[int]:
    """The experts that a stream's gate sees: a task's own and the shared ones; for the shared stream, all."""
    return [
        expert for expert, owner in enumerate(owners(config)) if stream == SHARED or owner in (stream, SHARED)
    ]


def mixed(experts: Sequence[Tensor], gates: Sequence[Tensor], config: PLEConfig) -> list[Tensor]:
    """Σ_i softmax(gate)_i · expert_i over the experts that it sees, a stream a gate."""
    streams = []
    for stream, gate in enumerate(gates):
        shares = gate.softmax(1).unbind(1)
        pairs = zip(shares, seen(stream, config), strict=True)
        streams.append(torch.stack([share[:, None] * experts[at] for share, at in pairs]).sum(0))
    return streams


def expert_of(level: Level, at: int) -> tuple[nn.Sequential, int]:
    """The layers that an expert of a level is one of, and its place there; the shared ones come last."""
    specific = 0 if level.specific is None else 3 * level.copies
    if at >= specific:
        return level.shared, at - specific
    return cast(nn.Sequential, level.specific), at


def streams_in_loops(network: PLE, config: PLEConfig, first: Mapping[str, Tensor]) -> list[Tensor]:
    """What enters the towers: a loop over levels, streams and experts."""
    belongs = owners(config)
    chunks = first["experts"].chunk(len(belongs), 1)
    experts = [deep(network.experts, at, units.relu()) for at, units in enumerate(chunks)]
    widths = [len(seen(stream, config)) for stream in range(4 if len(config.levels) > 1 else 3)]
    streams = mixed(experts, first["gates"].split(widths, 1), config)
    for level in cast(Sequence[Level], network.levels):
        experts = [deep(*expert_of(level, at), streams[stream]) for at, stream in enumerate(belongs)]
        gate, shared = level.task_gates, level.shared_gate
        gates = [streams[task] @ gate.weight[task] + gate.bias[task] for task in range(3)]
        if shared is not None:
            gates.append(streams[SHARED] @ shared.weight[0] + shared.bias[0])
        streams = mixed(experts, gates, config)
    return streams


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("levels", [((6, 5),), ((6, 5), (8, 4)), ((6,), (5,), (4, 3))], ids=len)
@pytest.mark.parametrize(("specific", "shared"), [(2, 3), (3, 1), (1, 1), (0, 2)])
def test_ple_equals_the_paper_written_as_loops(
    specific: int, shared: int, levels: tuple[tuple[int, ...], ...], rows: int
) -> None:
    """Every gate mixes own and shared experts of its level by its own stream; counts may differ."""
    sizes = {"specific_experts": specific, "shared_experts": shared, "levels": levels, "tower_hidden": (4,)}
    config = CONFIG.model_copy(update=sizes)
    model = model_of(config)
    network = cast(PLE, model.network)
    batch = features(INPUTS, rows)
    x = read(model, batch)
    streams = streams_in_loops(network, config, {name: layer(x) for name, layer in model.projections.items()})
    assert len(streams) == 3
    logits = model(*batch)
    for task, stream in enumerate(streams):
        expected = tower(network.towers, task, stream)
        torch.testing.assert_close(logits[task], expected, rtol=1e-4, atol=1e-4)


def changed(before: Tensor, after: Tensor) -> list[bool]:
    """For each part whether it is another."""
    return [not torch.equal(*pair) for pair in zip(before, after, strict=True)]


@pytest.mark.parametrize("levels", [((16, 12),), CONFIG.levels], ids=["last level", "level before"])
def test_a_gate_sees_its_own_and_the_shared_experts(levels: tuple[tuple[int, ...], ...]) -> None:
    """Zeroing an expert changes the stream of its task, a shared one all; and always the shared stream."""
    extraction = network_of(levels=levels).extraction
    gates = [torch.randn(7, 3 * 5), *([torch.randn(7, 9)] if len(levels) > 1 else [])]
    experts = torch.randn(9, 7, 12)
    streams = torch.cat(extraction(experts, *gates))
    for expert, owner in enumerate(owners(CONFIG)):
        without = experts.index_fill(0, torch.tensor([expert]), 0.0)
        expected = [owner in (stream, SHARED) or stream == SHARED for stream in range(len(streams))]
        assert changed(streams, torch.cat(extraction(without, *gates))) == expected


def test_experts_and_gates_of_a_further_level_read_their_own_stream() -> None:
    """A task's stream reaches that task and, through its experts, the shared stream; the shared one all."""
    level = cast(Level, network_of(levels=((16, 12), (14, 10), (10,))).levels[0])
    streams = torch.randn(4, 7, 12)

    def after(streams: Tensor) -> Tensor:
        return torch.cat(level(streams[:3], streams[3:]))

    for stream in range(4):
        other = streams.index_fill(0, torch.tensor([stream]), 1.0)
        expected = [stream in (reached, SHARED) or reached == SHARED for reached in range(4)]
        assert changed(after(streams), after(other)) == expected


def without_expert(network: PLE, level: int, expert: int, first: Mapping[str, Tensor]) -> Tensor:
    """Logits with one expert of a level silent."""

    def silence(module: torch.nn.Module, inputs: object, outputs: Tensor) -> Tensor:
        return outputs.index_fill(0, torch.tensor([expert]), 0.0)

    stack: nn.Module = network.experts
    if level:
        stack, expert = expert_of(cast(Level, network.levels[level - 1]), expert)
    hook = stack.register_forward_hook(silence)
    logits = network.head(first)
    hook.remove()
    return logits


def test_tasks_meet_through_the_shared_experts_of_the_next_level() -> None:
    """A task's expert of the first level reaches all, by way of the shared gate; of the last, its task."""
    torch.manual_seed(0)
    network = network_of()
    first = {"experts": torch.randn(50, 9 * 16), "gates": torch.randn(50, 3 * 5 + 9)}
    logits = network.head(first)
    for expert, owner in enumerate(owners(CONFIG)):
        assert changed(logits, without_expert(network, 0, expert, first)) == [True] * 3
        expected = [owner in (task, SHARED) for task in range(3)]
        assert changed(logits, without_expert(network, 1, expert, first)) == expected


def test_the_last_level_has_no_shared_gate() -> None:
    """Nobody would read it, and nothing train it: one level (CGC) has three gates over five experts each."""
    assert network_of(levels=((6,),)).projections["gates"].get_parameter("bias").shape == (3 * 5,)
    network = network_of(levels=((6,), (5,), (4,)))
    assert network.projections["gates"].get_parameter("bias").shape == (3 * 5 + 9,)
    shared_gates = [level.shared_gate for level in cast(Sequence[Level], network.levels)]
    assert [gate is None for gate in shared_gates] == [False, True]


def test_one_level_without_specific_experts_is_mmoe() -> None:
    """CGC differs from MMoE by the tasks' own experts alone."""
    ple = model_of(PLEConfig(embedding=4, specific_experts=0, shared_experts=3, levels=((6, 5),)))
    mmoe = model_of(MMoEConfig(embedding=4, experts=3, expert_hidden=(6, 5)))
    mmoe.load_state_dict(ple.state_dict())
    batch = features(INPUTS, 5)
    torch.testing.assert_close(ple(*batch), mmoe(*batch))


@pytest.mark.parametrize(
    "wrong",
    [{"levels": ()}, {"levels": ((8,), ())}, {"shared_experts": 0}, {"specific_experts": -1}],
    ids=str,
)
def test_sizes_that_make_no_ple_are_refused(wrong: dict[str, object]) -> None:
    """No level, a level of no layers, and no shared experts, for then the shared stream has no reader."""
    with pytest.raises(ValueError, match="for PLEConfig"):
        PLEConfig.model_validate(wrong)
