"""The proof that a version is the one that was exported: its golden scores, found again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.bundle.encoder import Encoder
from service.bundle.errors import BundleError, FeatureError
from service.bundle.golden import GoldenRequest, disagreement, read_golden
from service.bundle.manifest import Manifest
from service.engine import Engine
from service.errors import InferenceFailed


def check_golden(
    folder: Path, manifest: Manifest, encoder: Encoder, engine: Engine
) -> Sequence[GoldenRequest]:
    """The golden requests. BundleError unless each gets its scores again, through encoder and engine.

    They go through the state arrays, so they prove these too.
    """
    tolerance = manifest.tolerance_in(engine.precision)
    requests, expected = read_golden(folder)
    for at, (request, scores) in enumerate(zip(requests, expected, strict=True)):
        try:
            found = engine.run([request.encode(encoder)])[0].scores
        except FeatureError as error:
            raise BundleError(f"golden request {at} cannot be encoded: {error}") from error
        except InferenceFailed as error:
            raise BundleError(f"golden request {at} cannot be scored: {error.__cause__}") from error
        if found.keys() != scores.keys():
            raise BundleError(
                f"golden request {at} has the tasks {sorted(scores)}; the model, {sorted(found)}"
            )
        for task, golden in scores.items():
            apart = disagreement(found[task], golden)
            if not apart <= tolerance:
                raise BundleError(
                    f"golden request {at}: {task} is {apart:.1e} apart from its golden scores, "
                    f"more than {tolerance:.0e}; these weights are not the ones that were exported"
                )
    return requests
