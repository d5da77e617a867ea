"""What a module does: reads the environment, unpickles, catches everything."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator

from tests.layering.source import Function, Module, within

ENVIRONMENT = ("os.environ", "os.environb", "os.getenv", "os.getenvb", "pydantic_settings")
PICKLES = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas.read_pickle")
EVERYTHING = ("Exception", "BaseException", "builtins.Exception", "builtins.BaseException")
LOUD = ("exception", "error", "critical")


def reads_environment(modules: Iterable[Module], but: Collection[str]) -> list[str]:
    """Uses of the environment outside the modules of `but`; typer's `envvar=` is one."""
    offences = []
    for module in modules:
        if within(module.name, but):
            continue
        for node in module.nodes:
            if isinstance(node, ast.Attribute | ast.Name) and within(module.dotted(node), ENVIRONMENT):
                offences.append(module.at(node, f"reads the environment: {ast.unparse(node)}"))
            elif isinstance(node, ast.Call) and any(keyword.arg == "envvar" for keyword in node.keywords):
                offences.append(module.at(node, "reads the environment: envvar="))
    return offences


def unpickles(modules: Iterable[Module]) -> list[str]:
    """What could run code out of a file: pickle and its kin, allow_pickle, torch.load but of weights."""
    offences = []
    for module in modules:
        offences += [
            f"{module.path}:{line}: imports {name}" for line, name in module.imports if within(name, PICKLES)
        ]
        for node in module.nodes:
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            called = module.dotted(node.func)
            if (
                given.get("allow_pickle", "False") != "False"
                or (called == "torch.load" and given.get("weights_only") != "True")
                or within(called, PICKLES)
            ):
                offences.append(module.at(node, f"may unpickle: {ast.unparse(node)}"))
    return offences


def catches_everything(modules: Iterable[Module], but: Collection[str]) -> list[str]:
    """Handlers of every exception outside the functions and modules of `but`.

    One that ends by raising the same again catches nothing; a loop may log the error and go on.
    """
    offences = []
    for module in modules:
        for where, node, in_loop in _walk(module.tree, module.name, False):
            if isinstance(node, ast.Call) and within(module.dotted(node.func), ["contextlib.suppress"]):
                broad = any(module.dotted(name) in EVERYTHING for name in node.args)
            elif isinstance(node, ast.ExceptHandler):
                broad = _broad(module, node) and not _raises_again(node) and not (in_loop and _logs(node))
            else:
                continue
            if broad and not within(where, but):
                offences.append(module.at(node, f"catches everything, in {where}"))
    return offences


def _walk(
    node: ast.AST, where: str, in_loop: bool
) -> Iterator[tuple[str, ast.expr | ast.excepthandler, bool]]:
    """Expressions and handlers, each with the full name of its function and whether that loops around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield from _walk(child, f"{where}.{child.name}", False)
            continue
        if isinstance(child, ast.expr | ast.excepthandler):
            yield where, child, in_loop
        yield from _walk(child, where, in_loop or isinstance(child, ast.While | ast.For | ast.AsyncFor))


def _broad(module: Module, handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(module.dotted(name) in EVERYTHING for name in caught)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _logs(handler: ast.ExceptHandler) -> bool:
    calls = [node.func for node in ast.walk(handler) if isinstance(node, ast.Call)]
    return any(isinstance(called, ast.Attribute) and called.attr in LOUD for called in calls)
