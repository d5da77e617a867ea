"""What a module keeps for the life of the process."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Set

from tests.layering.classes import frozen_classes
from tests.layering.source import Function, Module, within

CACHES = ("functools.cache", "functools.lru_cache")
CHANGES = {
    "add", "append", "clear", "discard", "extend", "fill", "insert", "pop", "popitem", "put", "remove",
    "reverse", "setdefault", "sort", "update",
}  # fmt: skip


def module_state(modules: Collection[Module], constants: Collection[str]) -> list[str]:
    """Names of a module that hold something that can change.

    `constants`: callables whose result does not. A filled dict, list or set under an UPPER_CASE name is a
    table, as long as nothing in its module changes it.
    """
    harmless = {*constants, *frozen_classes(modules)}
    offences = []
    for module in modules:
        tables = set()
        for statement in _statements(module.tree.body):
            if isinstance(statement, Function):
                caches = any(within(_called(module, mark), CACHES) for mark in statement.decorator_list)
                offences += [module.at(statement, f"{statement.name} caches for ever")] if caches else []
            for target, value in _bindings(statement):
                name = target.id if isinstance(target, ast.Name) else ""
                table = name.lstrip("_").isupper()
                tables |= {name} if table else set()
                if not name.startswith("__") and not _constant(module, value, harmless, table=table):
                    offences.append(module.at(statement, f"module-level state: {ast.unparse(target)}"))
        offences += [module.at(node, what) for node, what in _changes(module.tree, tables)]
    return offences


def _bindings(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """What a statement binds to which value; None where it changes what is there already."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield target, value if isinstance(target, ast.Name | ast.Tuple) else None
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield target, value
        case ast.AugAssign(target=target):
            yield target, None


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, those inside `if`, `try` and loops too."""
    for statement in body:
        yield statement
        if not isinstance(statement, Function | ast.ClassDef):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)


def _called(module: Module, node: ast.expr) -> str:
    return module.dotted(node.func if isinstance(node, ast.Call) else node)


def _constant(module: Module, value: ast.expr | None, harmless: Set[str], *, table: bool) -> bool:
    """Whether a value cannot change; a table may hold containers."""

    def constant(*parts: ast.expr | None) -> bool:
        return all(_constant(module, part, harmless, table=table) for part in parts)

    match value:
        case ast.Constant() | ast.JoinedStr() | ast.Name() | ast.Subscript() | ast.Lambda() | ast.Compare():
            return True
        case ast.Tuple(elts=parts) | ast.BoolOp(values=parts):
            return constant(*parts)
        case ast.IfExp():
            return constant(value.body, value.orelse)
        case (
            ast.Attribute(value=part)
            | ast.Starred(value=part)
            | ast.UnaryOp(operand=part)
            | ast.BinOp(left=part)  # frozenset | set, tuple + list: the left side decides
            | ast.Call(func=ast.Attribute(value=ast.Constant() | ast.Call() as part))  # "a b".split()
        ) if constant(part):
            return True
        case ast.Dict(values=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return table and bool(parts) and constant(*parts)
        case ast.DictComp() | ast.ListComp() | ast.SetComp() | ast.Starred(value=ast.GeneratorExp()):
            return table
        case ast.Call():
            return within(module.dotted(value.func), harmless)
    return False


def _changes(tree: ast.Module, tables: Collection[str]) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Where a module changes its own tables, or binds a global anew."""
    for node in ast.walk(tree):
        match node:
            case ast.Global(names=names):
                yield node, f"binds a global anew: {', '.join(names)}"
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()) if name in tables:
                yield node, f"changes a constant: {ast.unparse(node)}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
                if name in tables and method in CHANGES:
                    yield node, f"changes a constant: {ast.unparse(node)}"
