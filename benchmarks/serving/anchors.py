"""How fast is onnxruntime alone on the bundle's graphs, with every tensor made beforehand?

    python -m benchmarks.serving.anchors OUT [--seconds 5]

`flat` runs `flat.onnx`, the ordinary graph with every feature per row: what a service without this project's
graphs cannot pass. `rank` runs `rank.onnx` on the user's part and the items' state, made beforehand too;
`rank.cpu` and `rank.int8`, where the bundle has them, are what our workers run on a CPU, which this project's
service cannot pass. Candidates a second by two threads, or by one run of two, whichever is the more; the
median of one run by one thread. OUT is what `benchmarks.serving.workload` wrote.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.machine import describe
from benchmarks.serving.answers import Feeds, bundle_of, flat_feeds, requests_of
from service.bundle.graphs import item_graph
from service.bundle.manifest import Manifest, Precision
from service.bundle.store import read_manifest
from service.model import load_encoder

CORES = 2
PREPARED = 16
"""requests whose tensors are made"""
GRAPHS = ("flat", "rank", "rank.cpu", "rank.int8")
WARM_UP = 3
FILL_ROWS = 256


@dataclass(frozen=True, slots=True)
class Anchor:
    """What onnxruntime reaches."""

    name: str
    candidates: int
    per_s: float
    """candidates a second with both cores"""
    p50_ms: float
    """of one run by one thread, nothing beside it"""
    how: str
    """was the faster"""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="what benchmarks.serving.workload wrote")
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 500], help="a request %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="each measurement [%(default)g]")
    options = parser.parse_args()
    print(describe())
    for candidates in options.candidates:
        bodies = requests_of(options.out, candidates)
        for anchor in measure(bundle_of(options.out), bodies, options.seconds):
            print(
                f"{anchor.name:9} {candidates:5} candidates   {anchor.per_s:9,.0f} candidates/s"
                f" ({anchor.how})   p50 {anchor.p50_ms:6.2f} ms by one thread"
            )


def measure(
    bundle: Path, bodies: Sequence[bytes], seconds: float, graphs: Collection[str] = ()
) -> list[Anchor]:
    """Some graphs, or all there are, on requests of as many candidates each."""
    manifest, bodies = read_manifest(bundle), bodies[:PREPARED]
    graphs = graphs or [name for name in GRAPHS if (bundle / f"{name}.onnx").exists()]
    candidates, anchors = len(json.loads(bodies[0])["candidates"]), []
    for name in graphs:
        precision: Precision = "int8" if name == "rank.int8" else "float32"
        feeds = (
            flat_feeds(bundle, bodies) if name == "flat" else _rank_feeds(bundle, manifest, bodies, precision)
        )
        anchors.append(_measured(name, bundle, manifest, feeds, candidates, seconds))
    return anchors


def _measured(
    name: str, bundle: Path, manifest: Manifest, feeds: Sequence[Feeds], candidates: int, seconds: float
) -> Anchor:
    outputs = manifest.outputs()
    single, double = (_session(bundle / f"{name}.onnx", threads) for threads in (1, CORES))
    alone = _times(lambda each: single.run(outputs, each), feeds, 1, seconds)
    ways = {
        f"1 thread x {CORES}": _times(lambda each: single.run(outputs, each), feeds, CORES, seconds),
        f"{CORES} threads x 1": _times(lambda each: double.run(outputs, each), feeds, 1, seconds),
    }
    how = max(ways, key=lambda way: len(ways[way]))
    per_s = len(ways[how]) * candidates / seconds
    return Anchor(name, candidates, per_s, 1e3 * float(np.median(alone)), how)


def _times(
    run: Callable[[Feeds], object], feeds: Sequence[Feeds], callers: int, seconds: float
) -> list[float]:
    """How long each run took that ended within so many seconds, by callers side by side."""
    for each in feeds[:WARM_UP]:
        run(each)
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def call(first: int) -> None:
        for each in itertools.islice(itertools.cycle(feeds), first, None):
            started = time.perf_counter()
            run(each)
            ended = time.perf_counter()
            if ended > end:
                return
            taken.append(ended - started)

    threads = [threading.Thread(target=call, args=(at,)) for at in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _rank_feeds(
    bundle: Path, manifest: Manifest, bodies: Sequence[bytes], precision: Precision
) -> list[Feeds]:
    """The tensors of `rank.onnx` for requests: the user's part, the whole state, the items' rows."""
    encoder, state = load_encoder(bundle, manifest), _state(bundle, manifest, precision)
    user, feeds = _session(bundle / "user.onnx", 1), []
    for body in bodies:
        request = json.loads(body)
        encoded = encoder.request(request["user_id"], {}, {}, request["candidates"], {})
        arrays = user.run(manifest.user_state, {"user_index": encoded.user.index})
        users = dict(zip(manifest.user_state, arrays, strict=True))
        feeds.append({**users, **state, "item_row": encoded.item_row})
    return feeds


def _state(bundle: Path, manifest: Manifest, precision: Precision) -> Feeds:
    """The state arrays of all items."""
    items, arrays = load_encoder(bundle, manifest).items.index, manifest.state_in(precision)
    session, names = _session(bundle / item_graph(manifest, precision), 1), [array.name for array in arrays]
    parts = [
        session.run(names, {"item_index": items[start : start + FILL_ROWS]})
        for start in range(0, len(items), FILL_ROWS)
    ]
    columns = zip(arrays, zip(*parts, strict=True), strict=True)
    return {array.name: np.concatenate(column, axis=array.item_axis) for array, column in columns}


def _session(path: Path, threads: int) -> ort.InferenceSession:
    """With so many threads, which spin as onnxruntime lets them by default: nobody else wants the cores."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    return ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
