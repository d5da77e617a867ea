"""What the exporter reads with every graph, read once."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def operators_read_once() -> Iterator[None]:
    """For every graph the exporter parses the sources of all its operators, a third of the time it takes."""
    # Private, and by its name of this torch: where it is called otherwise, the tests that export say so.
    apis = importlib.import_module("torch.onnx._internal._lazy_import").onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apis, "get_torchlib_ops", functools.cache(apis.get_torchlib_ops))
        yield
