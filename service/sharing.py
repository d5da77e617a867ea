"""Which requests of a batch share runs of `rank.onnx`: those for which it is faster, as measured here.

A run has a cost of its own, which requests that share it pay together; but it computes the users' part for
every row, which one request alone pays once. So small requests gain and large ones lose; where one turns
into the other depends on the model and on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from time import perf_counter

REQUESTS = 4
"""in the batches that are measured"""
SMALL = 20
ROWS = (SMALL, 50, 100, 200)
"""of each of their requests"""
ROUNDS = 15
GAIN = 0.05
"""less than that can be noise"""

Shape = tuple[int, int, bool]
"""requests in a batch, rows of each, and whether they share runs"""
SHAPES: tuple[Shape, ...] = tuple((REQUESTS, rows, shared) for rows in ROWS for shared in (False, True))


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who shares runs.

    Attributes:
        rows: requests of at most so many candidates do.
        times: how many times as fast as with a run each that is for the smallest; None where not measured.
    """

    rows: int
    times: float | None = None

    def __str__(self) -> str:
        if not self.rows:
            return "every request has runs of its own"
        gain = "" if self.times is None else f", {self.times:.1f} times as fast for small ones as one a run"
        return f"requests of up to {self.rows} candidates share runs{gain}"


def measure(
    run: Callable[[int, int, bool], object],
    shapes: Collection[Shape] = SHAPES,
    clock: Callable[[], float] = perf_counter,
    rounds: int = ROUNDS,
) -> dict[Shape, float]:
    """The least seconds of a batch of each shape, which `run` runs.

    Of rounds in which they take turns. The least and not the median: what else a machine does, as to serve
    with another version, can only add to it, and adds more to a long run, which is the likelier interrupted.
    """
    least = dict.fromkeys(shapes, float("inf"))
    for _ in range(rounds):
        for shape in shapes:
            started = clock()
            run(*shape)
            least[shape] = min(least[shape], clock() - started)
    return least


def choose(seconds: Mapping[Shape, float]) -> Sharing:
    """Who shares runs, by the seconds of some of `SHAPES`.

    The largest requests that gain, as far as all smaller ones do: a gain beyond that is likelier noise.
    """
    most, times = 0, None
    for rows in ROWS:
        apart, together = (seconds.get((REQUESTS, rows, shared), 0.0) for shared in (False, True))
        if together >= apart * (1 - GAIN):
            break
        most, times = rows, times or apart / together
    return Sharing(most, times)
