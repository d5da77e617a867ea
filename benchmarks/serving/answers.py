"""What is right: every request's scores by the bundle's `flat.onnx`, and whether an answer has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import deployment
from service.bundle.golden import agree
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

    def check(self, answer: bytes) -> None:
        """Raise WrongAnswer where the ids, the order, a score or a task score is another one."""
        items = json.loads(answer)["items"]
        given = {item["id"]: item for item in items}
        if given.keys() != set(self.ids):
            raise WrongAnswer(f"{len(given)} items, of {len(self.ids)} candidates")
        scores = np.array([item["score"] for item in items])
        if (np.diff(scores) > 0).any():
            raise WrongAnswer("the items are not in order of their scores")
        found = {"score": np.array([given[each]["score"] for each in self.ids])}
        found |= {task: np.array([given[each]["tasks"][task] for each in self.ids]) for task in self.tasks}
        right: Feeds = {"score": self.scores, **self.tasks}
        for name, values in right.items():
            if not agree(found[name], values):
                raise WrongAnswer(f"{name} is up to {np.abs(found[name] - values).max():.1e} apart")


def bundle_of(out: Path) -> Path:
    """The folder of the bundle that is promoted."""
    models = out / "models"
    return models / str(deployment.read(models).rankers["default"].version)


def requests_of(out: Path, candidates: int) -> list[bytes]:
    """The requests that wrk sends, so many candidates each."""
    return (out / "wrk" / f"rank-{candidates}.jsonl").read_bytes().splitlines()


def expected(bundle: Path, bodies: Sequence[bytes]) -> list[Expected]:
    """The true answers to requests."""
    manifest = read_manifest(bundle)
    session, names = open_session(bundle / "flat.onnx", EngineOptions(provider="cpu")), manifest.outputs()
    answers = []
    for body, feeds in zip(bodies, flat_feeds(bundle, bodies), strict=True):
        tasks = dict(zip(names, session.run(names, feeds), strict=True))
        answers.append(
            Expected(body, json.loads(body)["candidates"], tasks, manifest.fusion.score(tasks, {}))
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
