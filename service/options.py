"""Settings as options of the command line: an option overrides the variable, and has its help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.settings import Settings


def option(setting: str) -> Any:
    """An option that overrides a setting, with the setting's own help text."""
    return typer.Option(help=f"{Settings.model_fields[setting].description} [RANKSERVE_{setting.upper()}]")


Models = Annotated[Path | None, option("models")]


def settings(**given: object) -> Settings:
    """Settings from the environment, under the options that were given."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"]) or "settings"
        raise typer.BadParameter(f"{path}: {first['msg'].removeprefix('Value error, ')}") from None
