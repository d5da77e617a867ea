"""How many requests share a run of the engine: as many as that is faster for, as measured here.

A run has a cost of its own, which requests that share it pay together; but it computes the users' part for
every row, which one request alone pays once. So small requests gain and large ones lose; where one turns
into the other depends on the model and on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from time import perf_counter

SMALL, LARGER = 20, (100, 200)
"""rows of requests"""
SHAPES = ((1, SMALL), (2, SMALL), (4, SMALL), (8, SMALL), *((n, rows) for rows in LARGER for n in (1, 2)))
"""requests in a run, and rows of each"""
ROUNDS = 15
GAIN = 0.05
"""less than that is not worth an answer that comes later"""

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sharing:
    """What may share a run.

    Attributes:
        requests: most in a run.
        rows: most of a run that is shared; a request of more runs alone.
        times: how many times as fast as one request a run it is for small ones; None where not measured.
    """

    requests: int
    rows: int
    times: float | None = None

    def __str__(self) -> str:
        if self.requests == 1:
            return "one request a run"
        gain = "" if self.times is None else f", {self.times:.1f} times as fast for small ones as one a run"
        return f"up to {self.requests} requests of {self.rows} rows together share a run{gain}"


ALONE = Sharing(1, 1)
"""one request a run"""


def measure(
    run: Callable[[int, int], object],
    shapes: Collection[Shape] = SHAPES,
    clock: Callable[[], float] = perf_counter,
    rounds: int = ROUNDS,
) -> dict[Shape, float]:
    """The least seconds of a run of so many requests of so many rows each, by shape.

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
    """What may share a run, by the seconds of some of `SHAPES`, one small request among them.

    The fewest requests that are about as fast as any, and the most rows that two of a size gain by sharing.
    """
    each = {requests: taken / requests for (requests, rows), taken in seconds.items() if rows == SMALL}
    enough = min(each.values()) / (1 - GAIN)
    requests = min(requests for requests, taken in each.items() if taken <= enough)
    if requests == 1:
        return ALONE
    most = requests * SMALL
    for rows in LARGER:
        if seconds.get((2, rows), float("inf")) > 2 * seconds.get((1, rows), 0.0) * (1 - GAIN):
            break
        most = max(most, 2 * rows)
    return Sharing(requests, most, each[1] / each[requests])
