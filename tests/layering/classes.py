"""Inheritance, and the Protocols that stand in for it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tests.layering.source import Function, Module, within

PROTOCOL = ("typing.Protocol", "typing_extensions.Protocol")
FROZEN = ("typing.NamedTuple", "enum.Enum", "enum.IntEnum", "enum.StrEnum", "enum.Flag", "enum.IntFlag")


@dataclass(frozen=True)
class Class:
    """A class statement; `bases` are full names, with imports and re-exports resolved."""

    module: Module
    node: ast.ClassDef
    bases: tuple[str, ...]

    @property
    def is_protocol(self) -> bool:
        """Whether it says what others do, and does nothing itself."""
        return any(within(base, PROTOCOL) for base in self.bases)

    @property
    def members(self) -> set[str]:
        """Its own methods and fields, and whatever its methods assign to `self`."""
        return set(filter(None, map(_named, ast.walk(self.node))))


def inherits(modules: Collection[Module], direct: Collection[str], through: Collection[str]) -> list[str]:
    """Classes that inherit from anything but exceptions and these names.

    An heir of `through`, or of an exception, may be inherited from in turn; an heir of `direct` may not.
    """
    classes = _classes(modules)

    def may(base: str, *, at_once: bool) -> bool:
        if base in classes:
            above = classes[base].bases
            return bool(above) and all(may(name, at_once=False) for name in above)
        return _is_exception(base) or within(base, through) or (at_once and within(base, direct))

    return [
        found.module.at(found.node, f"{found.node.name} inherits from {base}")
        for found in classes.values()
        for base in [*found.bases, *(word.arg for word in found.node.keywords if word.arg == "metaclass")]
        if not may(base, at_once=True)
    ]


def lonely_protocols(modules: Collection[Module]) -> list[str]:
    """Protocols with fewer than two implementations: classes that have all its members.

    One that is only called is implemented by functions with its parameters, too.
    """
    classes = list(_classes(modules).values())
    offences = []
    for protocol in (found for found in classes if found.is_protocol):
        names = [
            other.node.name
            for other in classes
            if not other.is_protocol and protocol.members <= other.members
        ]
        if protocol.members == {"__call__"}:
            names += _functions_like(modules, protocol)
        if len(names) < 2:
            only = ", ".join(names) or "nobody"
            offences.append(
                protocol.module.at(protocol.node, f"{protocol.node.name}: implemented by {only} alone")
            )
    return offences


def frozen_classes(modules: Collection[Module]) -> set[str]:
    """Full names of the classes whose instances do not change: frozen dataclasses, models, tuples, enums."""
    classes = _classes(modules)

    def frozen(found: Class) -> bool:
        settings = [node for node in found.node.body if isinstance(node, ast.Assign)]  # model_config
        said = [*found.node.decorator_list, *settings]
        return any("frozen=True" in ast.unparse(node) for node in said) or any(
            within(base, FROZEN) or (base in classes and frozen(classes[base])) for base in found.bases
        )

    return {name for name, found in classes.items() if frozen(found)}


def _classes(modules: Collection[Module]) -> dict[str, Class]:
    """Every class, by its full name."""
    exported = {
        f"{module.name}.{local}": target for module in modules for local, target in module.names.items()
    }

    def origin(name: str) -> str:
        seen = {name}
        while (name := exported.get(name, name)) not in seen:
            seen.add(name)
        return name

    return {
        f"{module.name}.{node.name}": Class(
            module, node, tuple(origin(module.dotted(base)) for base in node.bases)
        )
        for module in modules
        for node in module.nodes
        if isinstance(node, ast.ClassDef)
    }


def _named(node: ast.AST) -> str:
    """The member that a node inside a class brings about, if any."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case (
            ast.AnnAssign(target=ast.Name(id=name))
            | ast.Attribute(value=ast.Name("self"), attr=name, ctx=ast.Store())
        ):
            return name
    return ""


def _is_exception(name: str) -> bool:
    """Of the builtins by fact, of a library by the name that all give theirs."""
    builtin = getattr(builtins, name, None)
    if isinstance(builtin, type):
        return issubclass(builtin, BaseException)
    return "." in name and name.endswith(("Error", "Exception", "Warning"))


def _functions_like(modules: Collection[Module], protocol: Class) -> Iterator[str]:
    """Functions with the parameters of a Protocol's `__call__`."""
    calls = [node for node in protocol.node.body if isinstance(node, Function)]
    wanted = [argument.arg for argument in calls[0].args.args[1:]]
    for module in modules:
        for node in module.nodes:
            if isinstance(node, Function) and [argument.arg for argument in node.args.args] == wanted:
                yield node.name
