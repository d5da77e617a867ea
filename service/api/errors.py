"""How the service says no: one table from the kind of an error to a status, and one shape of body.

Unexpected errors are none of this module's: `api.edge` logs them and answers a blank 500.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from service import errors
from service.bundle.errors import BundleError, FeatureError, FusionError


class Answer(NamedTuple):
    """What a kind of error is answered with."""

    status: int
    type: str


TABLE: Mapping[type[Exception], Answer] = MappingProxyType(
    {
        errors.Unauthorized: Answer(401, "unauthorized"),
        errors.Forbidden: Answer(403, "forbidden"),
        errors.UnknownRanker: Answer(404, "unknown_ranker"),
        errors.UnknownVersion: Answer(404, "unknown_version"),
        errors.UnknownTable: Answer(404, "unknown_table"),
        errors.Superseded: Answer(409, "superseded"),
        errors.SwapRefused: Answer(409, "swap_refused"),
        errors.TooLarge: Answer(413, "too_large"),
        errors.UnsupportedMedia: Answer(415, "unsupported_media"),
        errors.InvalidRequest: Answer(422, "invalid"),
        FeatureError: Answer(422, "invalid"),
        FusionError: Answer(422, "invalid"),
        errors.Overloaded: Answer(429, "overloaded"),
        ClientDisconnect: Answer(499, "disconnected"),
        errors.InferenceFailed: Answer(500, "inference_failed"),
        errors.NotReady: Answer(503, "not_ready"),
        errors.StoreFailed: Answer(503, "store_failed"),
        BundleError: Answer(500, "broken_bundle"),
        errors.DeadlineExceeded: Answer(504, "deadline_exceeded"),
        errors.NotFollowed: Answer(504, "not_followed"),
    }
)
"""An error is answered as the nearest of its classes in here. 499 is nginx's word for a caller that left."""

EXPECTED = tuple(TABLE)
"""what `answer` takes"""

logger = logging.getLogger(__name__)

_HTTP_TYPES = {404: "not_found", 405: "method_not_allowed"}
_MOST_OF_A_NAME = 100


def answer(scope: Scope, error: Exception) -> Response:
    """The response to an expected error."""
    status, type_ = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    fault: dict[str, Any] = {"type": type_, "message": str(error)}
    headers: dict[str, str] = {}
    match error:
        case FeatureError(field=field) | errors.InvalidRequest(field=str(field)):
            fault["field"] = field
        case FusionError():
            fault["field"] = "fusion"
        case errors.SwapRefused(reasons=reasons) | errors.NotFollowed(reasons=reasons) if reasons:
            fault["reasons"] = reasons
        case errors.Overloaded():
            # The header has whole seconds; at least one, or "at once" is what callers read.
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        case errors.NotReady() | errors.StoreFailed():
            headers["Retry-After"] = "1"
        case ClientDisconnect():
            fault["message"] = "the caller left"
        case errors.Unauthorized():
            headers["WWW-Authenticate"] = "Bearer"
        case errors.TooLarge():
            # Else the server would have to read the rest of the body to find the next request.
            headers["Connection"] = "close"
    if status >= 500:
        about = {"request_id": scope.get("state", {}).get("request_id"), "status": status}
        # A deadline that passed is a line, for under overload there are many; a fault has its trace.
        trace = error if status == 500 else None
        level = logging.ERROR if trace else logging.WARNING
        logger.log(level, "a request failed: %s", error, exc_info=trace, extra=about)
    return respond(scope, status, fault, headers)


def respond(
    scope: Scope, status: int, fault: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    """A body that says no, with the request's id; the outcome is left for `api.edge` to count."""
    state = scope.setdefault("state", {})
    state["outcome"] = fault["type"]
    fault["request_id"] = state.get("request_id")
    return Response(orjson.dumps({"error": fault}), status, headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Give the app every answer of this module."""
    for kind in TABLE:
        app.add_exception_handler(kind, _handle)
    app.add_exception_handler(HTTPException, _http)


async def _handle(request: Request, error: Exception) -> Response:
    # A coroutine: starlette would send a plain function to a thread.
    return answer(request.scope, error)


async def _http(request: Request, error: Exception) -> Response:
    """The framework's own errors: no such route, no such method."""
    assert isinstance(error, HTTPException)
    type_ = _HTTP_TYPES.get(error.status_code, "http")
    fault = {"type": type_, "message": f"{request.method} {request.url.path}: {error.detail}; see /docs"}
    return respond(request.scope, error.status_code, fault, dict(error.headers or {}))


def invalid(error: ValidationError) -> errors.InvalidRequest:
    """The first thing wrong with a body, in one sentence that names the field and the fix."""
    first = error.errors(include_url=False, include_input=False)[0]
    context = first.get("ctx", {})
    field = path((*first["loc"], *([context["name"]] if "name" in context else [])))
    match first["type"]:
        case "missing":
            message = "is missing; it is required"
        case "extra_forbidden":
            message = "there is no such field; see /docs for those there are, or remove it"
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "expected a JSON object"
        case "list_type" | "tuple_type":
            message = "expected a JSON list"
        case "too_short" if field == "candidates":
            message = "the list is empty; send at least one candidate"
        case _:
            message = first["msg"].removeprefix("Value error, ")
    return errors.InvalidRequest(field or None, message)


def path(location: Sequence[str | int]) -> str:
    """`("candidates", 3, "object", "id")` -> `candidates[3].id`.

    The step after a candidate's position is pydantic's tag for how it was given, no part of the request.
    """
    steps = [step for at, step in enumerate(location) if at != 2 or location[0] != "candidates"]
    named = (f"[{step}]" if isinstance(step, int) else f".{step[:_MOST_OF_A_NAME]}" for step in steps)
    return "".join(named).removeprefix(".")
