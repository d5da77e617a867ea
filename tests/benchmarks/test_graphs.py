"""What the profile of a graph adds up."""

from __future__ import annotations

import pytest

from benchmarks.graphs import MODELS, made, profile


def test_every_node_that_ran_is_counted() -> None:
    """Of a small model: its two gathers, its softmax, and no cast of the rows on the way to them."""
    graphs = made("mmoe", rows=7, items=20)
    assert graphs.keys() == {"rank", "rank by expert", "rank int8", "rank int8, small state", "flat"}
    found = profile(*graphs["rank"])
    assert found.nodes.keys() == found.took_ms.keys()
    assert (found.nodes["Gather"], found.nodes["Softmax"], found.nodes.get("Cast", 0)) == (2, 1, 0)


def test_the_graph_in_int8_has_no_large_layer_in_float() -> None:
    """A matmul of each expert, and what enters it brought to eight bits without a ReLU before."""
    nodes = profile(*made("mmoe", rows=7, items=20)["rank int8"]).nodes
    assert (nodes["MatMulIntegerToFloat"], nodes["QuantizeLinear"], nodes["Relu"]) == (8, 8, 8 + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ple", "esmm"])
def test_a_model_has_the_tasks_of_its_kind(name: str) -> None:
    """All graphs give one score a task; a funnel has its own."""
    graphs = made(name, rows=3, items=5)
    assert graphs.keys() == {"rank", "rank by expert", "rank int8", "rank int8, small state", "flat"}
    count = MODELS[name][1] or 3
    assert [len(model.graph.output) for model, _ in graphs.values()] == [count] * len(graphs)
