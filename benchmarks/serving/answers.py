"""What is right: every request's scores by the bundle's `flat.onnx`, and whether an answer has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.peers.scorer import FEATURES_FILE
from service.bundle import deployment
from service.bundle.golden import agree
from service.bundle.manifest import TOLERANCE
from service.bundle.store import read_manifest
from service.engine import EngineOptions, open_session
from service.model import load_encoder

Feeds = dict[str, NDArray[Any]]


class WrongAnswer(Exception):
    """An answer is not what the bundle's graph and formula make of the request; with the first difference."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The true answer to a request."""

    body: bytes
    ids: Sequence[str]
    """[N], in the order of the request"""
    tasks: Mapping[str, NDArray[np.float32]]
    """[N] by task"""
    scores: NDArray[np.float64]
    """[N]"""
    tolerance: float = TOLERANCE
    """of the bundle, or of its int8"""

    def check(self, answer: bytes, limit: int | None = None) -> None:
        """Raise WrongAnswer where the ids, the order, a score or a task score is another one.

        With a `limit` the answer has so many items, the best ones.
        """
        items, best = json.loads(answer)["items"], np.argsort(-self.scores, kind="stable")[:limit]
        place = {each: at for at, each in enumerate(self.ids)}
        at = np.array([place.get(item["id"], -1) for item in items])
        if len(at) != len(best) or len(np.unique(at)) != len(at) or at.min(initial=0) < 0:
            raise WrongAnswer(f"{len(items)} items, not all different candidates, of {len(best)} to come")
        scores = np.array([item["score"] for item in items])
        if (np.diff(scores) > 0).any():
            raise WrongAnswer("the items are not in order of their scores")
        found: Feeds = {task: np.array([item["tasks"][task] for item in items]) for task in self.tasks}
        right: Feeds = {task: values[at] for task, values in self.tasks.items()}
        found |= {"score": scores, "the best's score": scores}
        right |= {"score": self.scores[at], "the best's score": self.scores[best]}
        for name, values in right.items():
            if not agree(found[name], values, self.tolerance):
                raise WrongAnswer(f"{name} is up to {np.abs(found[name] - values).max():.1e} apart")


def bundle_of(out: Path) -> Path:
    """The folder of the bundle that is promoted."""
    models = out / "models"
    return models / str(deployment.read(models).rankers["default"].version)


def requests_of(out: Path, candidates: int) -> list[bytes]:
    """The requests that wrk sends, so many candidates each."""
    return (out / "wrk" / f"rank-{candidates}.jsonl").read_bytes().splitlines()


def counts_of(out: Path) -> tuple[int, int]:
    """How many users and items the workload has."""
    with np.load(out / FEATURES_FILE) as arrays:
        return len(arrays["user_index"]), len(arrays["item_index"])


def expected(bundle: Path, bodies: Sequence[bytes], precision: str = "float32") -> list[Expected]:
    """The true answers to requests, with the tolerance that the bundle states for a precision."""
    manifest = read_manifest(bundle)
    session, names = open_session(bundle / "flat.onnx", EngineOptions(provider="cpu")), manifest.outputs()
    answers = []
    for body, feeds in zip(bodies, flat_feeds(bundle, bodies), strict=True):
        tasks = dict(zip(names, session.run(names, feeds), strict=True))
        answers.append(
            Expected(
                body=body,
                ids=json.loads(body)["candidates"],
                tasks=tasks,
                scores=manifest.fusion.score(tasks, {}),
                tolerance=(manifest.int8 if manifest.int8 and precision == "int8" else manifest).tolerance,
            )
        )
    return answers


def flat_feeds(bundle: Path, bodies: Sequence[bytes]) -> list[Feeds]:
    """The tensors of `flat.onnx` for requests."""
    encoder = load_encoder(bundle, read_manifest(bundle))
    feeds = []
    for body in bodies:
        request = json.loads(body)
        encoded = encoder.request(request["user_id"], {}, {}, request["candidates"], {})
        users = encoded.user.index.repeat(len(encoded), axis=0)
        feeds.append({"user_index": users, "item_index": encoder.items.index[encoded.item_row]})
    return feeds
