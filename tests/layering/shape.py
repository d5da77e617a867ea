"""How long files and functions are, and what files are called."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable

from tests.layering.source import Function, Module

REASON = "Reason:"


def too_long(modules: Iterable[Module], file_lines: int, function_lines: int) -> list[str]:
    """Files and functions (from their `def`) over their limit whose docstring gives no `Reason:`."""
    offences = []
    for module in modules:
        lines = module.source.count("\n")
        if lines > file_lines and REASON not in (ast.get_docstring(module.tree) or ""):
            offences.append(f"{module.path}:1: {lines} lines")
        for node in module.nodes:
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > function_lines and REASON not in (ast.get_docstring(node) or ""):
                    offences.append(module.at(node, f"{node.name} has {lines} lines"))
    return offences


def named_for_nothing(modules: Iterable[Module], words: Collection[str]) -> list[str]:
    """Files and folders with one of these words in their name, in the plural too."""
    return [
        f"{module.path}:1: {part} says nothing of what is in it"
        for module in modules
        for part in module.name.split(".")
        if any(word in words or word.removesuffix("s") in words for word in part.split("_"))
    ]
