"""Every checker finds what it is for, and lets pass what comes near it."""

from __future__ import annotations

import pytest

from tests.layering.classes import inherits, lonely_protocols
from tests.layering.contents import catches_everything, reads_environment, unpickles
from tests.layering.imports import any_of, beyond, not_owned
from tests.layering.shape import named_for_nothing, too_long
from tests.layering.source import Module, parse
from tests.layering.state import module_state

CONSTANT = ["frozenset", "tuple", "re.compile", "logging.getLogger", "pathlib.Path"]


def snippet(code: str, name: str = "service.here") -> list[Module]:
    """A project of one module."""
    return [parse(name, code)]


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("import a.b", "a.b"),
        ("import a.b as c", "a.b"),
        ("from a import b as c", "a.b"),
        ("from . import b", "service.b"),
        ("from .b import c", "service.b.c"),
        ("if TYPE_CHECKING:\n    import a", "a"),
        ("def f():\n    import a", "a"),
        ("importlib.import_module('a.b')", "a.b"),
        ("__import__('a')", "a"),
    ],
)
def test_imports_are_found_wherever_they_stand(code: str, target: str) -> None:
    """Absolute, relative, renamed, late, for types only, by call: each gives the full name."""
    assert [name for _, name in parse("service.here", code).imports] == [target]


def test_a_relative_import_in_a_package() -> None:
    """In `__init__.py` one dot is the package itself."""
    package = Module(
        "service.bundle", "service/bundle/__init__.py", "from .errors import E\nfrom .. import wire"
    )
    assert package.imports == [(1, "service.bundle.errors.E"), (2, "service.wire")]


def test_libraries_beyond_the_allowed() -> None:
    """The standard library and the allowed ones pass, names that merely begin like them do not."""
    assert beyond(snippet("import json, numpy.typing\nfrom numpy import array"), ["numpy"]) == []
    assert len(beyond(snippet("import numpydoc\nimport orjson"), ["numpy"])) == 2


def test_exceptions_to_what_is_forbidden() -> None:
    """A part of a forbidden package can be allowed."""
    code = "from service.bundle import fusion\nfrom service.engine import Engine"
    assert any_of(snippet(code), ["service"], but=["service.bundle"]) == [
        "service/here.py:2: imports service.engine.Engine"
    ]


def test_a_part_of_a_library_has_its_own_owner() -> None:
    """The longest name decides."""
    owners = {"lib": ["service.here"], "lib.part": ["training"]}
    assert not_owned(snippet("import lib\nfrom lib import x"), owners) == []
    assert len(not_owned(snippet("import lib.part"), owners)) == 1
    assert len(not_owned(snippet("import lib", "service.there"), owners)) == 1
    assert not_owned(snippet("import lib.part", "training.export"), owners) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.environ['X']",
        "import os as o\no.getenv('X')",
        "from os import environ as e\ne.get('X')",
        "from pydantic_settings import BaseSettings\nclass S(BaseSettings): pass",
        "typer.Option(envvar='X')",
    ],
)
def test_reading_the_environment_is_found(code: str) -> None:
    """Under any name, and through libraries."""
    assert reads_environment(snippet(code), but=[])
    assert reads_environment(snippet(code), but=["service.here"]) == []


@pytest.mark.parametrize(
    ("code", "offends"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f, allow_pickle=mode)", True),
        ("import torch\ntorch.load(f)", True),
        ("import pandas as pd\npd.read_pickle(f)", True),
        ("np.load(f, allow_pickle=False)", False),
        ("import torch\ntorch.load(f, weights_only=True)", False),
    ],
)
def test_unpickling_is_found(code: str, offends: bool) -> None:
    """Pickle and its kin, and the loaders that would unpickle."""
    assert bool(unpickles(snippet(code))) is offends


@pytest.mark.parametrize(
    "code",
    [
        "CACHE = {}",
        "seen: list[str] = []",
        "table = {'a': 1}",
        "REGISTRY = dict()",
        "client = Client()",
        "if True:\n    pool = make_pool()",
        "try:\n    import x\nexcept ImportError:\n    pool = make_pool()",
        "A = B = {}",
        "TABLE = {'a': 1}\ndef f():\n    TABLE['b'] = 2",
        "TABLE = ['a']\ndef f():\n    TABLE.append('b')",
        "TABLE = {'a': []}\nTABLE['a'] = 1",
        "COUNT = 0\ndef f():\n    global COUNT",
        "X = (1, [])",
        "ROWS = (row for row in FILE)",
        "x = 0\nx += 1",
        "logging.root.name = 'x'",
        "from functools import cache\n@cache\ndef f(): ...",
        "import functools\n@functools.lru_cache(maxsize=9)\ndef f(): ...",
        "class Open: ...\nDEFAULT = Open()",
    ],
)
def test_module_state_is_found(code: str) -> None:
    """Containers to fill, objects that live on, constants that change, caches."""
    assert module_state(snippet(code), CONSTANT)


@pytest.mark.parametrize(
    "code",
    [
        "__all__ = ['a']",
        "LIMIT = 2 * 1024",
        "STATUS = {KeyError: 404, ValueError: (422, 'x')}",
        "NAMES = [name for name in OTHERS]",
        "SIGNALS = {0, *(-number for number in STOP)}",
        "WORDS = 'a b'.split()",
        "HERE = Path(__file__).resolve().parent\nfrom pathlib import Path",
        "import re\nPATTERN = re.compile('a').fullmatch",
        "logger = logging.getLogger(__name__)\nimport logging",
        "known = frozenset(vars(x)) | {'a'}",
        "Json = dict[str, 'Json'] | None",
        "first: int",
        "def f():\n    seen = {}\n    seen['a'] = 1",
        "class A:\n    def f(self):\n        self.seen = {}",
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Options: ...\nDEFAULT = Options()",
        "from typing import NamedTuple\nclass Pair(NamedTuple): ...\nORIGIN = Pair()",
        "class A(BaseModel):\n    model_config = ConfigDict(frozen=True)\nclass B(A): ...\nEMPTY = B()",
    ],
)
def test_constants_are_no_state(code: str) -> None:
    """What cannot change, and tables that nobody changes."""
    assert module_state(snippet(code), CONSTANT) == []


@pytest.mark.parametrize(
    ("code", "offends"),
    [
        ("try: f()\nexcept Exception: pass", True),
        ("try: f()\nexcept: pass", True),
        ("try: f()\nexcept (KeyError, BaseException): pass", True),
        ("import contextlib\nwith contextlib.suppress(Exception): f()", True),
        ("while True:\n    try: f()\n    except Exception: pass", True),
        ("while True:\n    def g():\n        try: f()\n        except Exception: log.exception('x')", True),
        ("while True:\n    try: f()\n    except Exception: log.exception('x')", False),
        ("try: f()\nexcept BaseException:\n    undo()\n    raise", False),
        ("try: f()\nexcept Exception as error: raise Other from error", True),
        ("try: f()\nexcept (KeyError, OSError): pass", False),
        ("def edge():\n    try: f()\n    except Exception: pass", False),
    ],
)
def test_catching_everything_is_found(code: str, offends: bool) -> None:
    """But for the named places, loops that log and go on, and handlers that raise the same again."""
    assert bool(catches_everything(snippet(code), but=["service.here.edge"])) is offends


@pytest.mark.parametrize(
    ("code", "offends"),
    [
        ("class A: ...\nclass B(A): ...", True),
        ("import abc\nclass A(abc.ABC): ...", True),
        ("class A(metaclass=Meta): ...", True),
        ("from torch import nn\nclass A(nn.Module): ...\nclass B(A): ...", True),
        ("class A(dict): ...", True),
        ("from somewhere import Model\nclass A(Model): ...", True),
        ("from torch import nn\nclass A(nn.Module): ...", False),
        ("class A(Exception): ...\nclass B(A, KeyError): ...", False),
        ("from typing import Generic, NamedTuple\nclass A(Generic[T]): ...\nclass B(NamedTuple): ...", False),
        ("import enum\nclass A(enum.StrEnum): ...", False),
        ("from pydantic import BaseModel as M\nclass A(M): ...\nclass B(A): ...", False),
    ],
)
def test_inheritance_is_found(code: str, offends: bool) -> None:
    """Only from the allowed names, exceptions, and heirs of what may be inherited through."""
    found = inherits(snippet(code), direct=["torch.nn.Module"], through=["enum", "typing", "pydantic"])
    assert bool(found) is offends


def test_inheritance_through_a_re_export() -> None:
    """A base is followed to where it is made."""
    project = [
        parse("service.errors", "class Trouble(Exception): ..."),
        parse("service.names", "from service.errors import Trouble"),
        parse("service.use", "from service import names\nclass Mine(names.Trouble): ..."),
    ]
    assert inherits(project, direct=[], through=[]) == []


def test_a_lonely_protocol_is_found() -> None:
    """It takes two classes with all the members, wherever they are, or functions where it is only called."""
    store = (
        "from typing import Protocol\nclass Store(Protocol):\n    size: int\n    def get(self, key): ...\n"
    )
    one = "class Memory:\n    def __init__(self): self.size = 0\n    def get(self, key): ...\n"
    two = "class Remote:\n    size: int\n    async def get(self, key): ...\n"
    half = "class Half:\n    def get(self, key): ...\n"
    assert len(lonely_protocols([*snippet(store + one), *snippet(half)])) == 1
    assert lonely_protocols([*snippet(store + one), *snippet(two)]) == []
    loss = "from typing import Protocol\nclass Loss(Protocol):\n    def __call__(self, logits, labels): ...\n"
    assert len(lonely_protocols(snippet(loss + "def a(logits, labels): ...\ndef b(logits): ..."))) == 1
    assert lonely_protocols(snippet(loss + "def a(logits, labels): ...\ndef b(logits, labels): ...")) == []


def test_length_is_found() -> None:
    """Of files and functions, also of methods; a docstring with a reason excuses."""
    body = "    x = 1\n" * 5
    assert (
        len(too_long(snippet(f"def f():\n{body}class A:\n    async def g(self):\n    {body}"), 300, 5)) == 1
    )
    assert too_long(snippet(f"def f():\n{body}"), 300, 6) == []
    assert too_long(snippet(f"def f():\n    '''Reason: one table.'''\n{body}"), 300, 5) == []
    assert len(too_long(snippet("x = 1\n" * 5), 4, 40)) == 1
    assert too_long(snippet("'''Reason: one table.'''\n" + "x = 1\n" * 5), 4, 40) == []


@pytest.mark.parametrize(
    "name", ["service.utils", "service.model_manager", "training.helpers.text", "tests.common"]
)
def test_names_that_say_nothing_are_found(name: str) -> None:
    """In files and folders, alone or as a part."""
    words = ["util", "helper", "common", "manager", "base"]
    assert named_for_nothing(snippet("", name), words)
    assert named_for_nothing(snippet("", "training.baseline"), words) == []
