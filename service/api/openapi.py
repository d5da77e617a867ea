"""The OpenAPI document of routes that read their bodies as bytes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.media import Media
from service.wire import FaultResponse, FeatureRows, Promotion, RankRequest

_REF = "#/components/schemas/{model}"


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Says that a route reads this model, though its handler takes bytes."""
    return {"requestBody": {"required": True, "content": _in_any_form(model)}}


def answer_of(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Says that a route is answered with this model, in whichever form the caller likes."""
    return {200: {"model": model, "content": _in_any_form(model)}}


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Says what a route can be answered with beside 200."""
    return {status: {"model": FaultResponse} for status in statuses}


def document(app: FastAPI) -> dict[str, Any]:
    """The app's document, with the schemas that `body_of` refers to."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _, bodies = models_json_schema(
            [(model, "validation") for model in (RankRequest, Promotion, FeatureRows)], ref_template=_REF
        )
        app.openapi_schema["components"]["schemas"] |= bodies["$defs"]
    return app.openapi_schema


def _in_any_form(model: type[BaseModel]) -> dict[str, Any]:
    return {media: {"schema": {"$ref": _REF.format(model=model.__name__)}} for media in Media}
