"""Ranking on a device: the catalogue's state lies there, and the shapes that it meets are few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.state import State

Array = NDArray[Any]


class Device:
    """A device with a copy of a resident catalogue's state, at fixed addresses.

    Args:
        session: of `rank.onnx`.
        outputs: of it, in the order in which they are wanted.
        state: of the items; on demand, nothing of it lies on the device.
        name: onnxruntime's, of the device.
    """

    def __init__(
        self, session: ort.InferenceSession, outputs: Sequence[str], state: State, name: str = "cuda"
    ) -> None:
        self._session, self._outputs, self._state = session, outputs, state
        rows = state.resident
        self._catalogue: dict[str, Any] = {
            name_: ort.OrtValue.ortvalue_from_numpy(array[:rows], name, 0)
            for name_, array in state.arrays.items()
            if rows
        }

    def rank(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Scores ``[N]`` of every output; items that the device does not hold bring their own state.

        So such an item costs the way of its own state to the device, and not that of the whole table's.
        """
        rows, resident = feeds["item_row"], self._state.resident
        own = np.flatnonzero(rows >= resident)
        if not len(own):
            return self._run(feeds, self._catalogue)
        few = {name: array if len(array) == 1 else array.take(own, axis=0) for name, array in feeds.items()}
        few["item_row"] = np.arange(len(own), dtype=np.int32)
        few |= {name: array.take(rows[own], axis=0) for name, array in self._state.arrays.items()}
        own_scores = self._run(few, {})
        if len(own) == len(rows):
            return own_scores
        scores = self._run({**feeds, "item_row": np.where(rows < resident, rows, 0)}, self._catalogue)
        for score, apart in zip(scores, own_scores, strict=True):
            score[own] = apart
        return scores

    def _run(self, feeds: Mapping[str, Array], on_device: Mapping[str, Any]) -> list[Array]:
        """Scores ``[N]`` by arrays of this process and others that lie on the device."""
        binding = self._session.io_binding()
        for name, value in on_device.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in padded(feeds).items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [np.array(output[: len(feeds["item_row"])]) for output in binding.copy_outputs_to_cpu()]


def padded(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays ``[n, …]`` with rows of zeros up to a power of two, and as they are those of one row for all."""
    n = max(map(len, feeds.values()))
    more = (1 << (n - 1).bit_length()) - n
    return {
        name: np.pad(array, [(0, more), *[(0, 0)] * (array.ndim - 1)]) if len(array) == n else array
        for name, array in feeds.items()
    }
