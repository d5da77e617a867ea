"""Who imports whom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping

from tests.layering.source import Module, within


def beyond_layer(modules: Iterable[Module], layers: Mapping[str, Collection[str]]) -> list[str]:
    """Imports inside `service` that the layers do not allow.

    `layers`: a module or package right under `service` -> those it may import beside itself.
    One that is missing has no place yet, and that is an offence too.
    """
    offences = []
    for module in modules:
        layer = _layer(module.name)
        if layer and layer not in layers:
            offences.append(f"{module.path}:1: service.{layer} has no place in the table of layers")
            continue
        for line, target in module.imports:
            other = _layer(target)
            if other and other != layer and other not in layers.get(layer, ()):
                offences.append(f"{module.path}:{line}: imports {target}")
    return offences


def beyond(modules: Iterable[Module], libraries: Collection[str]) -> list[str]:
    """Imports of anything but the standard library and these."""
    allowed = {*libraries, *sys.stdlib_module_names}
    return _imports(modules, lambda target: not within(target, allowed))


def any_of(modules: Iterable[Module], forbidden: Collection[str], but: Collection[str] = ()) -> list[str]:
    """Imports of these, but for what lies in `but`."""
    return _imports(modules, lambda target: within(target, forbidden) and not within(target, but))


def not_owned(modules: Iterable[Module], owners: Mapping[str, Collection[str]]) -> list[str]:
    """Imports of a library by a module that does not own it; the longest matching name decides."""
    offences = []
    for module in modules:
        for line, target in module.imports:
            library = max((name for name in owners if within(target, [name])), key=len, default=None)
            if library and not within(module.name, owners[library]):
                offences.append(
                    f"{module.path}:{line}: imports {target}, which belongs to {', '.join(owners[library])}"
                )
    return offences


def _layer(name: str) -> str:
    """`service.bundle.errors` -> `bundle`; empty for what is not of `service`, and for `service` itself."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] if package == "service" else ""


def _imports(modules: Iterable[Module], offends: Callable[[str], bool]) -> list[str]:
    return [
        f"{module.path}:{line}: imports {target}"
        for module in modules
        for line, target in module.imports
        if offends(target)
    ]
