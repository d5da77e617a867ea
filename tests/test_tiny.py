"""The tiny bundle that other tests serve is sound itself."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.golden import agree, read_golden
from service.bundle.manifest import graph_inputs
from service.bundle.schema import Side
from service.bundle.store import verify
from tests.service.bundle.reference import rows_of
from tests.tiny import write_tiny
from tests.tiny_features import CROSS


@pytest.mark.parametrize("leave_out", [(), CROSS], ids=["whole", "no cross side"])
def test_graphs_agree_with_numpy(tmp_path: Path, leave_out: tuple[str, ...]) -> None:
    """`flat`, and `user` + `item` + `rank`, both give the golden scores, which numpy alone has made."""
    tiny = write_tiny(tmp_path, "v1", leave_out=leave_out)
    manifest = verify(tiny.folder)
    assert manifest.features == tiny.encoder.schema
    user, item, rank, flat = (
        ort.InferenceSession(tiny.folder / f"{name}.onnx") for name in ("user", "item", "rank", "flat")
    )
    for request, expected in zip(*read_golden(tiny.folder), strict=True):
        encoded = request.encode(tiny.encoder)
        feeds: dict[Side, dict[str, np.ndarray]] = {}
        for side, columns in zip(Side, rows_of(tiny.encoder, encoded), strict=True):
            arrays = {f"{side}_index": columns.index, f"{side}_value": columns.value}
            feeds[side] = {name: arrays[name] for name in graph_inputs(manifest.features, side)}
        whole = flat.run(None, {name: array for side in feeds.values() for name, array in side.items()})
        one_user = {name: array[:1] for name, array in feeds[Side.USER].items()}
        state = dict(zip(manifest.user_state, user.run(None, one_user), strict=True))
        state |= dict(zip((s.name for s in manifest.state), item.run(None, feeds[Side.ITEM]), strict=True))
        state |= {"item_row": np.arange(len(encoded), dtype=np.int32)}
        parts = rank.run(None, state | feeds[Side.CROSS])
        for scores in (whole, parts):
            assert len(scores) == len(expected)
            for task, score in zip(manifest.outputs(), scores, strict=True):
                assert agree(score, expected[task])


def test_versions_differ_by_seed(tmp_path: Path) -> None:
    """The same seed gives the same scores, another one others."""
    request = read_golden(write_tiny(tmp_path, "a").folder)[0][0]
    same, other = write_tiny(tmp_path, "b"), write_tiny(tmp_path, "c", seed=1)
    first = read_golden(tmp_path / "a")[1][0]
    encoded = request.encode(same.encoder)
    for task, score in first.items():
        np.testing.assert_array_equal(same.predict(encoded)[task], score)
        assert not agree(other.predict(encoded)[task], score)
