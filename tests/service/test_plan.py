"""What a worker does next, as a table."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle.deployment import DeployedRanker, Deployment
from service.plan import Drop, Load, Local, Move, Retire, plan

NOTHING = Local(serving={}, ready=frozenset())


def desired(**rankers: DeployedRanker) -> Deployment:
    """A deployment of these rankers."""
    return Deployment(generation=1, rankers=rankers)


def ranker(
    version: str | None, previous: str | None = None, staged: str | None = None, at: int = 0
) -> DeployedRanker:
    """A deployed ranker."""
    return DeployedRanker(version=version, previous=previous, staged=staged, operation=at)


def one(version: str | None, previous: str | None = None, staged: str | None = None) -> Deployment:
    """A deployment of one ranker."""
    return desired(default=ranker(version, previous, staged))


def two(default: DeployedRanker, feed: DeployedRanker) -> Deployment:
    """A deployment of two rankers."""
    return desired(default=default, feed=feed)


def local(serving: dict[str, str], *ready: str, **more: object) -> Local:
    """What a worker has come to."""
    return replace(Local(serving=serving, ready=frozenset(ready)), **more)  # type: ignore[arg-type]


V1, V2 = {"default": "v1"}, {"default": "v2"}
BOTH = {"default": "v1", "feed": "v2"}
FAILED = frozenset({"v2"})
A_THEN_B = two(ranker("v1", staged="v4", at=7), ranker("v2", staged="v3", at=6))

ROWS: dict[str, tuple[Deployment, Local, object]] = {
    "nothing deployed": (desired(), NOTHING, None),
    "all as deployed": (one("v1"), local(V1, "v1"), None),
    # start
    "load what is deployed": (one("v1"), NOTHING, Load("v1")),
    "one load at a time": (one("v1"), local({}, loading="v1"), None),
    "serve with it": (one("v1"), local({}, "v1"), Move("default", "v1")),
    "what serves before what is staged": (one("v1", staged="v2"), NOTHING, Load("v1")),
    "the previous one where the deployed one fails": (one("v2", "v1"), local({}, failed=FAILED), Load("v1")),
    "serve with the previous": (one("v2", "v1"), local({}, "v1", failed=FAILED), Move("default", "v1")),
    "a failed version is not tried again": (one("v2", "v1"), local(V1, "v1", failed=FAILED), None),
    "until it is due": (one("v2", "v1"), local(V1, "v1", failed=FAILED, due=FAILED), Load("v2")),
    "one at a time": (one("v2", "v1"), local(V1, "v1", failed=FAILED, due=FAILED, loading="v2"), None),
    "which what is staged is not": (one("v1", staged="v2"), local(V1, "v1", failed=FAILED, due=FAILED), None),
    "and goes before it": (one("v2", "v1", "v3"), local(V1, "v1", failed=FAILED, due=FAILED), Load("v3")),
    "nor takes its memory": (one("v2", "v1", "v3"), local(V1, "v1", "v3", failed=FAILED, due=FAILED), None),
    "but is once the failure is forgotten": (one("v2", "v1"), local(V1, "v1"), Load("v2")),
    "nothing to serve with": (one("v2", "v1"), local({}, failed=frozenset({"v1", "v2"})), None),
    "no previous to turn to": (one("v2"), local({}, failed=FAILED), None),
    # stage, move, retire
    "load what is staged": (one("v1", staged="v2"), local(V1, "v1"), Load("v2")),
    "staged does not serve": (one("v1", staged="v2"), local(V1, "v1", "v2"), None),
    "staged and failed": (one("v1", staged="v2"), local(V1, "v1", failed=FAILED), None),
    "unstaged": (one("v1"), local(V1, "v1", "v2"), Retire("v2")),
    "move": (one("v2", "v1"), local(V1, "v1", "v2"), Move("default", "v2")),
    "retire the old": (one("v2", "v1"), local(V2, "v1", "v2"), Retire("v1")),
    "load the new before the old is retired": (one("v2", "v1"), local(V1, "v1"), Load("v2")),
    "what serves, staged once more": (one("v1", staged="v1"), local(V1, "v1"), None),
    # memory
    "a third waits for the first to go": (one("v2", "v1", "v3"), local(V2, "v2", retiring=1), None),
    "an overtaken one goes first": (one("v1", staged="v3"), local(V1, "v1", "v2"), Retire("v2")),
    "an overtaken load is waited for": (one("v1", staged="v3"), local(V1, "v1", loading="v2"), None),
    "one more than two": (two(ranker("v1"), ranker("v2", staged="v3")), local(BOTH, "v1", "v2"), Load("v3")),
    "the earlier operation first": (A_THEN_B, local(BOTH, "v1", "v2"), Load("v3")),
    "and before what it has staged": (A_THEN_B, local(BOTH, "v1", "v2", "v4"), Retire("v4")),
    "the later one waits for memory": (A_THEN_B, local(BOTH, "v1", "v2", "v3"), None),
    "rankers that come together": (two(ranker("v3"), ranker("v3")), local(BOTH, "v1", "v2"), Load("v3")),
    "staged gives way to deployed": (one("v3", staged="v2"), local(V1, "v1", "v2"), Retire("v2")),
    # rankers come and go
    "omission means gone": (desired(), local(V1, "v1"), Drop("default")),
    "and its version too": (desired(), local({}, "v1"), Retire("v1")),
    "a shared version": (two(ranker("v1"), ranker("v1")), local(V1, "v1"), Move("feed", "v1")),
    "a new ranker": (two(ranker("v1"), ranker(None, staged="v2")), local(V1, "v1"), Load("v2")),
    "which does not serve while staged": (one(None, staged="v2"), local({}, "v2"), None),
}


@pytest.mark.parametrize(("deployed", "here", "action"), ROWS.values(), ids=ROWS.keys())
def test_next_step(deployed: Deployment, here: Local, action: object) -> None:
    """One step, and only this one, follows from what should be and what is."""
    assert plan(deployed, here) == action


version = st.sampled_from(["v1", "v2", "v3", "v4"])
state = st.builds(ranker, version, version, st.none() | version, st.integers(1, 9))
deployments = st.dictionaries(st.sampled_from(["a", "b"]), state, min_size=1)


def settle(deployed: Deployment, here: Local, broken: frozenset[str]) -> Local:
    """What it comes to where every load ends at once and every retired version is gone at once."""
    for _ in range(50):
        match plan(deployed, here):
            case None:
                return here
            case Load(name):
                assert name not in here.ready | here.failed
                assert len(here.ready) <= len(deployed.rankers)  # so one more than can serve, at most
                ends = "failed" if name in broken else "ready"
                here = replace(here, **{ends: getattr(here, ends) | {name}})
            case Move(name, new):
                assert new in here.ready
                here = replace(here, serving={**here.serving, name: new})
            case Drop(name):
                here = replace(here, serving={a: v for a, v in here.serving.items() if a != name})
            case Retire(name):
                assert name not in here.serving.values()
                here = replace(here, ready=here.ready - {name})
    raise AssertionError("it never settles")


@given(st.lists(deployments, min_size=1, max_size=6), st.frozensets(version, max_size=3))
def test_always_settles(history: list[dict[str, DeployedRanker]], broken: frozenset[str]) -> None:
    """Whatever is deployed after whatever, who has served goes on, and all is served that can be."""
    here = NOTHING
    for rankers in history:
        served = here.serving.keys() & rankers.keys()
        here = settle(desired(**rankers), replace(here, failed=frozenset()), broken)
        assert served <= here.serving.keys() <= rankers.keys()
        assert set(here.serving.values()) <= here.ready
        for name, wanted in rankers.items():
            if wanted.version not in broken:
                assert here.serving[name] == wanted.version
            elif name not in served and wanted.previous not in broken:
                assert here.serving[name] == wanted.previous
