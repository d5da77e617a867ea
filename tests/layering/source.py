"""Python files as parsed modules: their names, what they import, what a name in them stands for."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One parsed file; `name` is dotted, `path` is relative to the repository."""

    name: str
    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.source, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree."""
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and full name of everything imported, wherever it stands; `from a import b` is `a.b`."""
        return [(line, target) for line, target, _ in self._bound]

    @cached_property
    def names(self) -> dict[str, str]:
        """What a name of this file stands for: `np` -> `numpy`, a class of its own -> `module.Class`."""
        bound = {local: target for _, target, local in self._bound}
        own = {
            node.name: f"{self.name}.{node.name}" for node in self.tree.body if isinstance(node, ast.ClassDef)
        }
        return bound | own

    def dotted(self, node: ast.AST) -> str:
        """The full name of `a.b.c` with its imports resolved; empty for what is no name."""
        if isinstance(node, ast.Subscript):
            return self.dotted(node.value)  # Generic[T]
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (owner := self.dotted(node.value)):
            return f"{owner}.{node.attr}"
        return ""

    def at(self, node: ast.stmt | ast.expr | ast.excepthandler, what: str) -> str:
        """An offence at a node."""
        return f"{self.path}:{node.lineno}: {what}"

    @cached_property
    def _bound(self) -> list[tuple[int, str, str]]:
        """Line, full name and local name of each import; one by a call has no local name."""
        bound = []
        for node in self.nodes:
            match node:
                case ast.Import():  # after `import a.b`, `a` stands for itself
                    bound += [(node.lineno, alias.name, alias.asname or alias.name) for alias in node.names]
                case ast.ImportFrom():
                    origin = self._origin(node)
                    bound += [
                        (node.lineno, f"{origin}.{alias.name}", alias.asname or alias.name)
                        for alias in node.names
                    ]
                case ast.Call(
                    func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    bound.append((node.lineno, name, ""))
        return bound

    def _origin(self, node: ast.ImportFrom) -> str:
        """The absolute name behind `from ..x import y`."""
        if not node.level:
            return node.module or ""
        up = node.level - self.path.endswith("__init__.py")
        package = self.name.split(".")[: -up or None]
        return ".".join([*package, *([node.module] if node.module else [])])


def parse(name: str, source: str) -> Module:
    """A module from a snippet."""
    return Module(name, name.replace(".", "/") + ".py", source)


def read(root: Path, *packages: str) -> list[Module]:
    """Every Python file of the packages that exist."""
    files = [file for package in packages for file in sorted((root / package).rglob("*.py"))]
    return [
        Module(_name(file.relative_to(root)), str(file.relative_to(root)), file.read_text("utf-8"))
        for file in files
    ]


def within(name: str, prefixes: Collection[str]) -> bool:
    """Whether a dotted name is one of the prefixes, or lies in one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
