"""Whether onnxruntime finds what it needs for CUDA. By the files alone: a process that imports it grows.

Its CUDA provider is a library of its own, linked with libraries of CUDA in one version. Those are packages
that lie beside onnxruntime (`rankserve[cuda]`), or the system's. cuDNN is none of them: the provider does
without it, but for operators that need it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path

PROVIDER = "capi/libonnxruntime_providers_cuda.so"
LIBRARIES = ("cudart", "cublas", "cublasLt", "curand")


def usable() -> bool:
    """Is there an onnxruntime with a CUDA provider, and all that this is linked with but the driver?"""
    found = find_spec("onnxruntime")
    folders = (found.submodule_search_locations if found else None) or ()
    return any(linked(Path(folder)) for folder in folders)


def linked(onnxruntime: Path, installed: Callable[[str], str | None] = find_library) -> bool:
    """Are the libraries there that the provider in onnxruntime's folder names?

    `installed` gives the name, with its version, of a library that the system has.
    """
    try:
        needed = _needed(onnxruntime / PROVIDER)
    except (OSError, ValueError):  # there is none, or it is empty
        return False
    packaged = {path.name for path in (onnxruntime.parent / "nvidia").glob("*/lib/*.so.*")}
    return all(name in packaged or name == installed(library) for library, name in needed.items())


def _needed(provider: Path) -> dict[str, str]:
    """Library -> its name with the version that the provider is linked with."""
    with provider.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        named = {name: re.search(rf"lib{name}\.so\.\d+".encode(), code) for name in LIBRARIES}
        return {name: match.group().decode() for name, match in named.items() if match}
