"""The fused score: by hand, by law, and never NaN."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.bundle.errors import FusionError
from service.bundle.fusion import FLOOR, FusionFormula

Arrays = dict[str, NDArray[np.float64]]

probability = st.floats(0.0, 1.0)
weight = st.floats(-4.0, 4.0)


def formula(*factors: dict[str, Any], weight: float = 1.0) -> FusionFormula:
    """A formula of one group."""
    return FusionFormula.parse({"groups": [{"factors": list(factors), "weight": weight}]})


def score(of: FusionFormula, **x: float) -> float:
    """The score of one candidate; every name is offered as a task and as an item attribute."""
    arrays = {name: np.array([value]) for name, value in x.items()}
    return float(of.score(arrays, arrays)[0])


def refusal(*factors: object) -> FusionError:
    """Why a formula of one group of these factors is refused."""
    with pytest.raises(FusionError) as raised:
        FusionFormula.parse({"groups": [{"factors": list(factors)}]})
    return raised.value


def test_product_by_hand() -> None:
    """Two tasks and an item attribute multiply as on paper: 0.5^2 * (1 + 2*0.2)^3 * log(1 + 9)."""
    fused = formula(
        {"task": "click", "weight": 2},
        {"task": "like", "weight": 3, "scale": 2, "offset": 1},
        {"item": "item.duration", "transform": "log1p", "default": 15},
    )
    assert score(fused, click=0.5, like=0.2, **{"item.duration": 9.0}) == pytest.approx(
        0.25 * 1.4**3 * math.log(10), rel=1e-12
    )


def test_sum_of_groups_by_hand() -> None:
    """Groups add with their weights: 2 * 0.5 + 0.25 * (0.2 * 0.1)."""
    fused = FusionFormula.parse(
        {
            "groups": [
                {"factors": [{"task": "a"}], "weight": 2},
                {"factors": [{"task": "b"}, {"task": "c"}], "weight": 0.25},
            ]
        }
    )
    assert score(fused, a=0.5, b=0.2, c=0.1) == pytest.approx(1.0 + 0.25 * 0.02, rel=1e-12)
    assert fused.tasks == ("a", "b", "c")
    assert fused.attributes == ()


@pytest.mark.parametrize(
    ("transform", "x", "expected"),
    [
        ({"transform": "none"}, 7.0, 7.0),
        ({"transform": "log1p"}, 7.0, math.log(8)),
        ({"transform": "log1p"}, -3.0, FLOOR),
        ({"transform": "power", "exponent": 0.5}, 16.0, 4.0),
        ({"transform": "power", "exponent": -1}, 4.0, 0.25),
        ({"transform": "sigmoid", "center": 30, "width": 10}, 40.0, 1 / (1 + math.exp(-1))),
        ({"transform": "sigmoid", "center": 0, "width": 1e-9}, -1e9, FLOOR),
        ({"transform": "piecewise", "points": [[0, 1], [10, 3], [20, 2]]}, 5.0, 2.0),
        ({"transform": "piecewise", "points": [[0, 1], [10, 3], [20, 2]]}, 15.0, 2.5),
        ({"transform": "piecewise", "points": [[0, 1], [10, 3], [20, 2]]}, 99.0, 2.0),
    ],
)
def test_transforms(transform: dict[str, Any], x: float, expected: float) -> None:
    """Each transform of an item attribute is the curve its name says, and floored."""
    assert score(formula({"item": "x", "default": 1, **transform}), x=x) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("x", [math.nan, 0.0, -0.0, math.inf, -math.inf])
def test_missing_takes_the_default(x: float) -> None:
    """A missing, zero or infinite attribute counts as the stated default, before the transform."""
    fused = formula({"item": "x", "transform": "log1p", "default": 15})
    assert score(fused, x=x) == pytest.approx(math.log(16), rel=1e-12)


def test_clip_and_floor() -> None:
    """The base is clipped before its power; what is left below the floor counts as the floor."""
    assert score(formula({"task": "t", "weight": 2, "clip": [0.1, 0.5]}), t=0.9) == pytest.approx(0.25)
    assert score(formula({"task": "t", "weight": 2, "clip": [0.1, 0.5]}), t=0.0) == pytest.approx(0.01)
    assert score(formula({"task": "t"}), t=0.0) == pytest.approx(FLOOR)
    assert score(formula({"task": "t", "scale": -1}), t=0.7) == pytest.approx(FLOOR)


def test_broken_task_score_stays_visible() -> None:
    """A task score that is no number makes NaN of that candidate alone: the ranker must see it."""
    fused = formula({"task": "t"}).score({"t": np.array([0.5, np.nan, np.inf, 0.25])}, {})
    assert fused[[0, 3]] == pytest.approx([0.5, 0.25])
    assert np.isnan(fused[[1, 2]]).all()


@pytest.mark.parametrize(
    ("factor", "field", "message"),
    [
        ({"task": "a", "item": "b", "default": 1}, "groups.0.factors.0", "either task or item"),
        ({}, "groups.0.factors.0", "either task or item"),
        ({"task": ""}, "groups.0.factors.0", "either task or item"),
        ({"task": "a", "weight": math.nan}, "groups.0.factors.0.weight", "finite"),
        ({"task": "a", "scale": math.inf}, "groups.0.factors.0.scale", "finite"),
        ({"task": "a", "offset": 1e999}, "groups.0.factors.0.offset", "finite"),
        ({"task": "a", "clip": [0, math.nan]}, "groups.0.factors.0.clip.1", "finite"),
        ({"task": "a", "clip": [0.5, 0.5]}, "groups.0.factors.0", "low < high"),
        ({"task": "a", "clip": [-2, -1]}, "groups.0.factors.0", "positive high"),
        ({"task": "a", "weight": "2"}, "groups.0.factors.0.weight", "valid number"),
        ({"task": "a", "weight": True}, "groups.0.factors.0.weight", "valid number"),
        ({"task": "a", "weight": 1e7}, "groups.0.factors.0.weight", "less than or equal"),
        ({"task": "a", "weight": -1}, "groups.0.factors.0", "positive offset"),
        ({"task": "a", "weight": -1, "offset": -1}, "groups.0.factors.0", "positive offset"),
        ({"task": "a", "wieght": 1}, "groups.0.factors.0.wieght", "not permitted"),
        ({"task": "a", "default": 1}, "groups.0.factors.0", "belong to an item"),
        ({"task": "a", "transform": "log1p"}, "groups.0.factors.0", "belong to an item"),
        ({"item": "a"}, "groups.0.factors.0", "needs a default"),
        ({"item": "a", "default": 1, "transform": "tanh"}, "groups.0.factors.0.transform", "log1p"),
        (
            {"item": "a", "default": 1, "transform": "sigmoid", "center": 1},
            "groups.0.factors.0",
            "takes center",
        ),
        ({"item": "a", "default": 1, "width": 1}, "groups.0.factors.0", "takes no parameter"),
        ({"item": "a", "default": 0, "transform": "power", "exponent": -1}, "groups.0.factors.0", "default"),
        (
            {"item": "a", "default": 1, "transform": "piecewise", "points": [[1, 1], [1, 2]]},
            "groups.0.factors.0",
            "rise",
        ),
        (None, "groups.0.factors.0", "dictionary"),
    ],
)
def test_refused_factors(factor: object, field: str, message: str) -> None:
    """A wrong factor is refused with its path and the reason."""
    error = refusal(factor)
    assert error.field == field
    assert message in error.message


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"groups": []}, "groups"),
        ({}, "groups"),
        ([], "fusion"),
        (None, "fusion"),
        ({"groups": [{"factors": []}]}, "groups.0.factors"),
        ({"groups": [{"factors": [{"task": "a"}], "weight": 0}]}, "groups.0.weight"),
        ({"groups": [{"factors": [{"task": "a"}], "weight": -1}]}, "groups.0.weight"),
        ({"groups": [{"factors": [{"task": "a"}], "weight": math.inf}]}, "groups.0.weight"),
    ],
)
def test_refused_formulas(raw: object, field: str) -> None:
    """An empty formula, an empty group and a group weight that is not positive are refused."""
    with pytest.raises(FusionError) as raised:
        FusionFormula.parse(raw)
    assert raised.value.field == field


def test_unknown_names() -> None:
    """A task or attribute that the version lacks is refused by name, with those it has."""
    fused = formula({"task": "clik"}, {"item": "item.length", "default": 1})
    with pytest.raises(FusionError, match=r"clik: unknown task; this version has: click, like"):
        fused.check(["like", "click"], ["item.length"])
    with pytest.raises(
        FusionError, match=r"item\.length: unknown item attribute of numbers; this version has: none"
    ):
        fused.check(["clik"], [])
    fused.check(["clik", "other"], ["item.length"])


def test_json_round_trip() -> None:
    """A formula written as JSON reads back as itself."""
    fused = formula(
        {"task": "a"}, {"item": "b", "default": 2, "transform": "sigmoid", "center": 1, "width": 2}
    )
    assert FusionFormula.model_validate_json(fused.model_dump_json()) == fused


@given(st.lists(st.tuples(probability, weight), min_size=1, max_size=5), st.floats(0.1, 2.0))
def test_log_space_equals_the_direct_product(factors: list[tuple[float, float]], offset: float) -> None:
    """Where the direct product is an ordinary number, the formula gives that number."""
    fused = formula(*({"task": str(t), "weight": w, "offset": offset} for t, (_, w) in enumerate(factors)))
    direct = math.prod((offset + x) ** w for x, w in factors)
    assert score(fused, **{str(t): x for t, (x, _) in enumerate(factors)}) == pytest.approx(direct, rel=1e-9)


@given(probability, probability, st.floats(0.01, 8.0), st.floats(0.01, 5.0), st.floats(0.0, 3.0))
def test_monotone_in_a_task(a: float, b: float, weight: float, scale: float, offset: float) -> None:
    """For a positive weight and scale, a higher task score never lowers the fused score."""
    fused = formula(
        {"task": "t", "weight": weight, "scale": scale, "offset": offset}, {"task": "u", "weight": 2}
    )
    low, high = sorted((a, b))
    assert score(fused, t=low, u=0.3) <= score(fused, t=high, u=0.3)


@given(st.floats(0.01, 1.0), st.floats(0.1, 10.0), st.floats(0.1, 3.0), st.floats(0.1, 10.0))
def test_scale_laws(x: float, scale: float, w: float, group: float) -> None:
    """A factor's scale s multiplies the score by s^w, a group's weight by itself."""
    plain = score(formula({"task": "t", "weight": w}), t=x)
    assert score(formula({"task": "t", "weight": w, "scale": scale}), t=x) == pytest.approx(plain * scale**w)
    assert score(formula({"task": "t", "weight": w}, weight=group), t=x) == pytest.approx(plain * group)


@given(st.lists(st.tuples(probability, weight, st.floats(0.1, 10.0)), min_size=1, max_size=6), st.data())
def test_explain_adds_up(factors: list[tuple[float, float, float]], data: st.DataObject) -> None:
    """Per group the log contributions add up to its log score; the groups' scores add up to the score."""
    cut = data.draw(st.integers(0, len(factors)))
    groups = [range(cut), range(cut, len(factors))]
    fused = FusionFormula.parse(
        {
            "groups": [
                {
                    "weight": factors[group[0]][2],
                    "factors": [{"task": str(t), "weight": factors[t][1], "offset": 0.5} for t in group],
                }
                for group in groups
                if group
            ]
        }
    )
    tasks = {str(t): np.array([x, x / 2]) for t, (x, _, _) in enumerate(factors)}
    told = fused.explain(tasks, {})
    for group in told:
        assert group.logs.sum(axis=0) + group.log_weight == pytest.approx(group.log_score)
    assert np.sum([np.exp(group.log_score) for group in told], axis=0) == pytest.approx(
        fused.score(tasks, {})
    )
    assert [name for group in told for name in group.names] == list(fused.tasks)


@given(
    st.lists(st.tuples(probability, st.floats(-1e6, 1e6)), min_size=1, max_size=4),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(
        [
            {"transform": "none"},
            {"transform": "log1p"},
            {"transform": "power", "exponent": -100},
            {"transform": "power", "exponent": 100},
            {"transform": "sigmoid", "center": -1e12, "width": 1e-12},
            {"transform": "piecewise", "points": [[-1e12, -1e12], [1e12, 1e12]]},
        ]
    ),
    st.floats(-1e12, 1e12),
)
def test_extremes_never_give_nan(
    factors: list[tuple[float, float]], x: float, transform: dict[str, Any], scale: float
) -> None:
    """Whatever the weights and the attribute, a finite task score gives a finite score, without a warning."""
    fused = formula(
        *({"task": str(t), "weight": w, "offset": 1e-12} for t, (_, w) in enumerate(factors)),
        {"item": "x", "default": 1, "scale": scale, **transform},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isfinite(score(fused, x=x, **{str(t): p for t, (p, _) in enumerate(factors)}))


@given(st.integers(0, 40))
def test_candidates_do_not_touch_each_other(n: int) -> None:
    """N candidates at once score as each alone; none give an empty array."""
    random = np.random.default_rng(n)
    arrays: Arrays = {"t": random.random(n), "x": random.random(n) * 60}
    fused = formula({"task": "t", "weight": 0.7}, {"item": "x", "transform": "log1p", "default": 15})
    alone = [score(fused, t=t, x=x) for t, x in zip(arrays["t"], arrays["x"], strict=True)]
    assert fused.score(arrays, arrays).tolist() == pytest.approx(alone, rel=1e-15)
