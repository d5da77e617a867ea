"""Rounds of measurements -> medians, spreads and ratios, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from benchmarks.serving.anchors import Anchor
from benchmarks.serving.servers import OURS

T = TypeVar("T", "Anchor", "Measured")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a server reached in one round at one size of request."""

    name: str
    candidates: int
    per_s: float
    """candidates a second over 8 connections"""
    p50_ms: float
    """over one connection, as is p99"""
    p99_ms: float
    cpu_s: float
    """processor seconds a million candidates, over 8 connections"""
    pss_mb: float
    """after it, as is USS"""
    uss_mb: float
    failed: int
    """requests that were not answered with 200"""
    poisson: float | None
    """highest open-loop rate within the bound, requests a second; None where it was not looked for"""


def report(bare: Sequence[Anchor], measured: Sequence[Measured]) -> str:
    """A table and the ratios of every size of request."""
    sizes = dict.fromkeys(anchor.candidates for anchor in bare)
    return "\n".join(line for size in sizes for line in _of_size(size, bare, measured))


def _of_size(size: int, bare: Sequence[Anchor], measured: Sequence[Measured]) -> Iterator[str]:
    alone = _by_name(anchor for anchor in bare if anchor.candidates == size)
    served = _by_name(each for each in measured if each.candidates == size)
    yield (
        f"\n{size} candidates; medians, least to most in brackets\n"
        f"{'':19}{'candidates/s, both cores':>30}{'p50 ms, one caller':>26}{'p99 ms':>9}"
        f"{'CPU s / 10^6':>14}{'PSS MB':>9}{'USS MB':>9}{'Poisson req/s':>15}"
    )
    for name, anchors in alone.items():
        rates, p50 = [each.per_s for each in anchors], [each.p50_ms for each in anchors]
        yield f"{f'bare {name}.onnx':19}{_spread(rates, 0):>30}{_spread(p50, 2):>26}"
    for name, rounds in served.items():
        rates, p50 = [each.per_s for each in rounds], [each.p50_ms for each in rounds]
        p99, cpu = median(each.p99_ms for each in rounds), median(each.cpu_s for each in rounds)
        poisson = [each.poisson for each in rounds if each.poisson is not None]
        failed = sum(each.failed for each in rounds)
        pss, uss = median(each.pss_mb for each in rounds), median(each.uss_mb for each in rounds)
        yield (
            f"{name:19}{_spread(rates, 0):>30}{_spread(p50, 2):>26}{p99:9.2f}{cpu:14.1f}{pss:9.0f}{uss:9.0f}"
            + (f"{median(poisson):15.1f}" if poisson else f"{'':15}")
            + (f"  {failed} requests failed" if failed else "")
        )
    for ours in OURS:
        if ours in served:
            yield from _ratios(ours, served, alone)


def _ratios(mine: str, served: dict[str, list[Measured]], alone: dict[str, list[Anchor]]) -> Iterator[str]:
    """What one of ours comes to beside the others, each ratio of one round, then the median."""
    for name, anchors in alone.items():
        pairs = list(zip(served[mine], anchors, strict=False))
        rates = [ours.per_s / anchor.per_s for ours, anchor in pairs]
        p50 = [ours.p50_ms / anchor.p50_ms for ours, anchor in pairs]
        yield (
            f"{mine} / bare {name}.onnx: {_spread(rates, 2)} of its candidates/s,"
            f" {_spread(p50, 2)} of its p50"
        )
    yield from _beside(
        mine, "candidates/s", {name: [each.per_s for each in rounds] for name, rounds in served.items()}
    )
    found = {name: [each.poisson for each in rounds if each.poisson] for name, rounds in served.items()}
    yield from _beside(mine, "Poisson rate", {name: rates for name, rates in found.items() if rates})


def _beside(mine: str, what: str, rounds: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Our median over each of the others', the best first; a name with a blank is no peer as it comes."""
    rates = {name: median(each) for name, each in rounds.items()}
    others = sorted(rates.keys() - {mine}, key=rates.__getitem__, reverse=True) if mine in rates else []
    best = next((name for name in others if " " not in name and name not in OURS), None)
    for name in others:
        mark = " (the best peer)" if name == best else ""
        yield f"{mine} / {name}: {rates[mine] / rates[name]:.2f} of its {what}{mark}"


def _by_name(each: Iterable[T]) -> dict[str, list[T]]:
    named: dict[str, list[T]] = {}
    for one in each:
        named.setdefault(one.name, []).append(one)
    return named


def _spread(values: Sequence[float], digits: int) -> str:
    least, middle, most = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({least} to {most})"
