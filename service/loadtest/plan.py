"""What a service will be asked, and when, settled before the first request is due. Pure.

Arrivals are planned ahead and do not wait for answers: an open loop. A closed one, which sends when the last
answer came, is held up by a service that stalls, and so leaves out the worst of what it measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from service.loadtest.errors import LoadTestError

Value = str | bool | int | float | list[str | int | float] | None
"""of a feature, as a request has it"""


class Arrivals(StrEnum):
    """How requests follow each other."""

    POISSON = "poisson"  # as those of many users who know nothing of each other
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Load:
    """One steady load."""

    rate: float
    """requests a second"""
    duration_s: float
    arrivals: Arrivals = Arrivals.POISSON
    windows: int = 1
    """equal parts of the duration that are judged each by itself"""
    seed: int = 0

    def due(self, part: int = 0, parts: int = 1) -> NDArray[np.float64]:
        """When one of several generators sends, in seconds from the start, ascending.

        Together they make the rate: Poisson processes add up to one, and constant ones interleave.
        """
        if self.arrivals == Arrivals.CONSTANT:
            count = int(np.ceil(self.rate * self.duration_s - 1e-9))
            return np.arange(part, count, parts) / self.rate
        random = np.random.default_rng([self.seed, part])
        count = random.poisson(self.rate * self.duration_s / parts)
        return np.sort(random.uniform(0.0, self.duration_s, count))

    def window(self, at: float) -> int:
        """The window of a request due so many seconds from the start."""
        return min(self.windows - 1, int(at / self.duration_s * self.windows))


@dataclass(frozen=True, slots=True)
class Mix:
    """How many candidates requests have: sizes, and the share of requests that has each."""

    sizes: tuple[int, ...]
    shares: tuple[float, ...]

    @staticmethod
    def parse(text: str) -> Mix:
        """`200`, or `100:0.5,500:0.5`. Raises LoadTestError."""
        try:
            parts = [part.partition(":") for part in text.split(",")]
            sizes = tuple(int(size) for size, _, _ in parts)
            weights = [float(weight) if colon else 1.0 for _, colon, weight in parts]
        except ValueError:
            raise _bad_mix(text) from None
        if min(sizes) < 1 or not all(0 < weight < np.inf for weight in weights):
            raise _bad_mix(text)
        return Mix(sizes, tuple(weight / sum(weights) for weight in weights))


@dataclass(frozen=True, slots=True)
class Requests:
    """What the requests are like."""

    users: Sequence[str]
    items: Sequence[str]
    """the most popular first"""
    candidates: Mix = Mix((200,), (1.0,))
    zipf: float = 1.0
    """exponent of the items' popularity: the one at place k is drawn as k^-zipf; 0 draws all alike"""
    ranker: str = "default"
    tasks: bool = False
    limit: int | None = None
    deadline_ms: float | None = None
    context: Mapping[str, Value] = field(default_factory=dict)

    def check(self) -> None:
        """Raises LoadTestError where no such request can be made."""
        if not self.users or not self.items:
            raise LoadTestError("there are no ids; name users and items with --users and --items")
        if max(self.candidates.sizes) > len(self.items):
            raise LoadTestError(
                f"{max(self.candidates.sizes)} candidates cannot differ with {len(self.items)} items; "
                "lower --candidates, or name more with --items"
            )

    def bodies(self, seed: int, part: int = 0) -> Iterator[bytes]:
        """Bodies of requests, without end; users are drawn alike, candidates by popularity and distinct."""
        random = np.random.default_rng([seed, part])
        weights = np.arange(1, len(self.items) + 1, dtype=np.float64) ** -self.zipf
        same: dict[str, object] = {"ranker": self.ranker} if self.ranker != "default" else {}
        same |= {"tasks": True} if self.tasks else {}
        same |= {"limit": self.limit} if self.limit is not None else {}
        same |= {"deadline_ms": self.deadline_ms} if self.deadline_ms is not None else {}
        same |= {"context": self.context} if self.context else {}
        cumulative = np.cumsum(weights / weights.sum())
        while True:
            size = int(random.choice(self.candidates.sizes, p=self.candidates.shares))
            user = self.users[int(random.integers(len(self.users)))]
            drawn = distinct(weights, cumulative, size, random)
            yield orjson.dumps(
                {"user_id": user, "candidates": [self.items[at] for at in drawn.tolist()]} | same
            )


def distinct(
    weights: NDArray[np.float64], cumulative: NDArray[np.float64], size: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Draw positions `[size]` one after another without replacement, each in proportion to its weight.

    Drawing with replacement and passing over repeats is that, and costs nothing by catalogue. What is still
    missing comes from exponential keys (Efraimidis and Spirakis 2006), which cost a number a position.
    """
    drawn = np.minimum(np.searchsorted(cumulative, random.random(2 * size)), len(weights) - 1)
    _, first = np.unique(drawn, return_index=True)
    found = drawn[np.sort(first)][:size]
    if missing := size - len(found):
        keys = random.standard_exponential(len(weights)) / weights
        keys[found] = np.inf
        found = np.concatenate([found, np.argsort(keys)[:missing]])
    return found


def ids(text: str) -> list[str]:
    """`5000` -> ids "0" to "4999"; anything else names a file with an id a line. Raises LoadTestError."""
    if text.isdecimal():
        return [str(number) for number in range(int(text))]
    try:
        lines = Path(text).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadTestError(f"{text} is neither a number of ids nor a file of them: {error}") from None
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def context(fields: Sequence[str]) -> dict[str, Value]:
    """`hour=20`, `tab=feed` -> fields of a request's context: JSON where it is some, else text.

    Raises:
        LoadTestError: one is not written so, or is no value of a feature.
    """
    read: dict[str, Value] = {}
    for written in fields:
        name, equals, value = written.partition("=")
        try:
            read[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            read[name] = value
        if not name or not equals or isinstance(read[name], dict):
            raise LoadTestError(f"--context {written}: write a field and its value, as hour=20 or tab=feed")
    return read


def _bad_mix(text: str) -> LoadTestError:
    return LoadTestError(
        f"--candidates {text}: write a number, as 200, or sizes and shares, as 100:0.5,500:0.5"
    )
