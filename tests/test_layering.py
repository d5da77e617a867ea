"""The shape of the code: who may know whom, who owns what, and how long a thing may be.

1. service imports neither training nor torch.
2. service.bundle imports the standard library, numpy and pydantic; nothing is ever unpickled.
3. training imports of service the bundle, and for the parity check of export the engine.
4. A library has one owner.
5. Wire types stay above the ranker; settings read the environment; modules hold no state.
6. Errors are caught by name, but where a failure must not spread.
7. No inheritance but where a construct or a library demands it; no Protocol for one implementation.

Each rule is a table and a test; `tests/layering` finds what breaks it, and is tested there on bad snippets.
A rule that is in the way is changed here, in the open, with its reason.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.layering.classes import inherits, lonely_protocols
from tests.layering.contents import catches_everything, reads_environment, unpickles
from tests.layering.imports import any_of, beyond, beyond_layer, not_owned
from tests.layering.shape import named_for_nothing, too_long
from tests.layering.source import Module, parse, read, within
from tests.layering.state import module_state

ROOT = Path(__file__).parent.parent

# cli -> supervisor -> app -> api -> ranker -> registry -> model -> batcher, engine: all know what follows
FLOOR = {"bundle", "errors", "heap", "telemetry"}
RUNS = {"batcher", "cores", "cost", "engine", "ledger", "state"}
MODEL = FLOOR | RUNS | {"precision", "proof", "sharing", "trial", "warming"}
RESIDENTS = MODEL | {"tasks", "behind", "model"}
REGISTRY = RESIDENTS | {"residents", "plan"}
RANKER = REGISTRY | {"registry", "features", "wire"}
API = RANKER | {"ranker", "promotion", "versions", "settings"}
APP = API | {"api", "choice", "cuda", "logs", "machine"}
SUPERVISOR = APP | {"app", "folders", "tally", "worker"}
LAYERS: dict[str, set[str]] = {
    "cli": SUPERVISOR | {"supervisor", "loadtest", "cli_features", "options"},
    "cli_features": APP | {"options"},
    "options": {"settings"},
    "supervisor": SUPERVISOR,
    "app": APP,
    "api": API,
    "ranker": RANKER,
    "registry": REGISTRY,
    "residents": RESIDENTS,
    "model": MODEL,
    "features": FLOOR | {"tasks"},
    "promotion": {"bundle", "errors"},  # works on the folder alone, as does `versions`: the CLI needs no more
    "versions": {"bundle", "errors"},
    "plan": {"bundle", "errors"},  # a pure function
    "values": {"bundle"},
    "wire": {"bundle", "errors", "values"},
    "worker": {"corked", "door", "heap", "tally"},  # runs an app that it is given
    "door": {"tally"},
    "tally": set(),
    "cores": {"tally"},
    "corked": set(),
    "tasks": set(),
    "folders": set(),
    "choice": {"machine", "settings"},  # a pure function
    "settings": {"wire"},  # the hard limits of what travels
    # returns its timings instead of knowing telemetry
    "engine": {"bundle", "chunks", "cores", "device", "errors", "ledger", "state", "wanted"},
    "chunks": set(),  # arithmetic
    "state": {"bundle", "budget", "chunks", "ledger", "mapping", "places", "wanted"},
    "wanted": {"bundle"},
    "ledger": {"bundle", "budget", "mapping"},
    "device": {"state"},
    "budget": {"bundle"},
    "mapping": set(),
    "warming": {"bundle", "state"},
    "behind": set(),  # does what it is given
    "places": {"bundle"},
    "batcher": {"cost", "errors", "waiting"},
    "waiting": {"errors"},
    "cost": set(),  # arithmetic
    "precision": {"bundle"},
    "proof": {"bundle", "engine", "errors"},
    "trial": {"budget", "bundle", "engine", "ledger", "precision", "proof", "state"},
    "sharing": set(),  # times what it is given
    "loadtest": set(),  # a client of the HTTP API, and of nothing else
    "bundle": set(),
    "errors": set(),
    "heap": set(),
    "machine": {"cuda"},
    "cuda": set(),
    "telemetry": {"histograms"},
    "histograms": set(),
    "logs": set(),
}

OWNERS = {
    "fastapi": ["service.app", "service.api"],
    "fastapi_offline": ["service.app", "service.api"],
    "hdrh": ["service.loadtest.histogram"],
    "matplotlib": ["service.loadtest.chart"],
    "starlette": ["service.app", "service.api"],
    "redis": ["service.features"],
    "onnxruntime": ["service.engine", "service.device"],  # both sides of one session
    "prometheus_client": ["service.telemetry", "service.histograms"],
    "torch": ["training"],
}

READ_THE_ENVIRONMENT = ["service.settings", "service.supervisor", "training.fit"]  # fit: what torchrun says

CATCH_EVERYTHING = [
    "service.batcher",  # fails the entries of its batch
    "service.behind",  # hands on whatever the work of its thread raised
    "service.residents",  # turns a failed load into that version's reason
    "service.api.edge",  # the process's edge: a blank 500
    "service.cli",
    "service.supervisor",
    "training.cli",
]

# a layer, or what a library demands; not from an heir of these
INHERIT_FROM = [
    "torch.nn.Module",
    "logging.Formatter",
    "uvicorn.Server",
    "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol",
]
INHERIT_THROUGH = ["enum", "typing", "typing_extensions", "pydantic", "pydantic_settings"]

# callables that give what cannot change, or what a library wants declared at the top
CONSTANT = [
    "bytes", "float", "frozenset", "int", "len", "max", "min", "range", "slice", "str", "sum", "tuple",
    "collections.namedtuple", "datetime.timedelta", "logging.getLogger", "math", "operator.attrgetter",
    "operator.itemgetter", "pathlib.Path", "re.compile", "struct.Struct", "types.MappingProxyType",
    "typing.NewType", "typing.ParamSpec", "typing.TypeVar", "numpy.dtype", "numpy.finfo", "numpy.iinfo",
    "numpy.float32", "numpy.float64", "numpy.int32", "numpy.int64", "fastapi.APIRouter",
    "fastapi.Depends", "fastapi.security", "pydantic.TypeAdapter", "typer.Argument", "typer.Option",
    "typer.Typer",
]  # fmt: skip

NOT_A_NAME = ["util", "helper", "common", "base", "manager", "handler", "processor", "factory", "factorie"]

WITHOUT_TORCH = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is absent", name=name)

absent = sys.argv[1].split()
sys.meta_path.insert(0, Absent())
for name in sys.argv[2].split():
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def service() -> list[Module]:
    """The serving package."""
    return read(ROOT, "service")


@pytest.fixture(scope="module")
def training() -> list[Module]:
    """The training package."""
    return read(ROOT, "training")


def none(offences: list[str]) -> None:
    """Fail with the offences, a line each."""
    assert not offences, "\n".join(["", *offences])


def under(name: str, modules: Collection[Module]) -> list[Module]:
    """The modules of a package."""
    return [module for module in modules if within(module.name, [name])]


def import_without(absent: Collection[str], names: Collection[str]) -> None:
    """Import modules in a process of their own where some packages are not installed."""
    command = [sys.executable, "-c", WITHOUT_TORCH, " ".join(absent), " ".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_service_knows_only_what_is_further_along(service: list[Module]) -> None:
    """Rules 1, 3 and 5: every import inside service follows an arrow; wire types stay above the ranker."""
    none(beyond_layer(service, LAYERS))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("service.model", "from service.registry import Registry"),
        ("service.registry", "from service import wire"),
        ("service.engine", "import service.telemetry"),
        ("service.bundle.store", "from ..errors import NotReady"),
        ("service.api.rank", "def later():\n    from service.app import create_app"),
        ("service.features.near", "from service.ranker import Ranker"),
        ("service.loadtest.plan", "from service.wire import RankRequest"),
        ("service.unheard_of", ""),
    ],
)
def test_layers_forbid(name: str, code: str) -> None:
    """An import against the arrows is found, and so is a module without a place."""
    assert len(beyond_layer([parse(name, code)], LAYERS)) == 1


def test_service_does_not_know_training(service: list[Module]) -> None:
    """Rule 1: service imports nothing of training."""
    none(any_of(service, ["training"]))


def test_service_app_imports_without_torch() -> None:
    """Rule 1: `import service.app` works with torch and training absent."""
    if not (ROOT / "service/app.py").exists():
        pytest.skip("service/app.py is not there yet")
    import_without(["torch", "training"], ["service.app"])


def test_service_imports_with_the_base_install(service: list[Module]) -> None:
    """Rule 1: every module of service imports without what only the extras bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def packages(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement)[0].replace("-", "_") for requirement in requirements}

    extras = packages(project["optional-dependencies"]["train"] + project["optional-dependencies"]["dev"])
    absent = extras - packages(project["dependencies"]) | {"training", "hdrh"}  # of hdrhistogram
    import_without(absent, [module.name for module in service])


def test_bundle_needs_only_numpy_and_pydantic(service: list[Module]) -> None:
    """Rule 2: the contract imports the standard library, numpy, pydantic and itself."""
    none(beyond(under("service.bundle", service), ["numpy", "pydantic", "service.bundle"]))


def test_nothing_is_unpickled(service: list[Module], training: list[Module]) -> None:
    """Rule 2: no file that the project reads can run code."""
    none(unpickles([*service, *training]))


def test_training_knows_only_the_bundle(training: list[Module]) -> None:
    """Rule 3: training imports service.bundle, and export the engine for its parity check."""
    export = under("training.export", training)
    none(any_of(export, ["service"], but=["service.bundle", "service.engine"]))
    none(any_of([module for module in training if module not in export], ["service"], but=["service.bundle"]))


def test_a_library_has_one_owner(service: list[Module], training: list[Module]) -> None:
    """Rule 4: what can change with a library lies in one place."""
    none(not_owned([*service, *training], OWNERS))


def test_batcher_needs_no_library(service: list[Module]) -> None:
    """Rule 4: the batcher is asyncio and numpy, and takes a plain callable."""
    known = ["numpy", "service.cost", "service.errors", "service.waiting"]
    none(beyond(under("service.batcher", service), known))


def test_settings_read_the_environment(service: list[Module], training: list[Module]) -> None:
    """Rule 5: nobody else does."""
    none(reads_environment([*service, *training], but=READ_THE_ENVIRONMENT))


def test_modules_hold_no_state(service: list[Module], training: list[Module]) -> None:
    """Rule 5: what changes has an owner that is passed along; a module holds constants."""
    none(module_state([*service, *training], CONSTANT))


def test_errors_are_caught_by_name(service: list[Module], training: list[Module]) -> None:
    """Rule 6: only the batch, the load, the background loop and the process's edge catch everything."""
    none(catches_everything([*service, *training], but=CATCH_EVERYTHING))


def test_no_inheritance(service: list[Module], training: list[Module]) -> None:
    """Rule 7: but for exceptions, enums, typing constructs, layers, pydantic and what a library demands."""
    none(inherits([*service, *training], direct=INHERIT_FROM, through=INHERIT_THROUGH))


def test_a_protocol_has_two_implementations(service: list[Module], training: list[Module]) -> None:
    """Rule 7: with one, the class itself will do."""
    none(lonely_protocols([*service, *training]))


def test_files_and_functions_are_short() -> None:
    """At most 300 lines a file and 40 a function, or a docstring with a `Reason:`."""
    none(too_long(read(ROOT, "service", "training", "tests", "benchmarks", "deploy"), 300, 40))


def test_files_are_named_for_what_they_hold() -> None:
    """No file or folder is called utils, helpers, common, base, manager, handler, processor or factory."""
    none(named_for_nothing(read(ROOT, "service", "training", "tests", "benchmarks", "deploy"), NOT_A_NAME))
