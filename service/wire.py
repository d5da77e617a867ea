"""What travels: a request to rank, its answer, and how the service says no.

Reading is strict: unknown fields, wrong types and numbers that are not finite are refused by name, so that a
typo never becomes a silently worse slate. Only ids are lenient: an integer is read as its decimal text.
"""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from service.bundle.fusion import FusionFormula
from service.values import MAX_TEXT, Features, fits

MAX_CANDIDATES = 100_000
"""The most that an operator can allow."""
MAX_ROWS = 1_000
"""Rows of features written at once."""

REQUEST_ID = r"^[\x21-\x7e]{1,128}$"
"""Printable ASCII without blanks: it goes into headers and log lines."""


class Wire(BaseModel):
    """Something that travels in; JSON objects with exactly the declared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Answer(BaseModel):
    """Something that travels out."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def _id(given: object) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and fits(given):
        return str(given)
    raise PydanticCustomError("id_type", "an id is a string, or an integer of at most 64 bits")


def _parts(key: object) -> tuple[object, ...]:
    return tuple(key) if isinstance(key, list) else (key,)


def _kind(candidate: object) -> str:
    return "object" if isinstance(candidate, dict | Candidate) else "id"


Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Id = Annotated[
    str,
    Field(max_length=MAX_TEXT),
    BeforeValidator(_id),
    WithJsonSchema({"type": ["string", "integer"], "maxLength": MAX_TEXT}),
]
RowKey = Annotated[tuple[Id, ...], Field(min_length=1, max_length=8), BeforeValidator(_parts)]


class Candidate(Wire):
    """An item to rank, with features of its own that override those the service knows."""

    id: Id
    features: Features = {}


def _in_one_go(given: Any, check: ValidatorFunctionWrapHandler) -> list[str | Candidate]:
    """Ids alone, the commonest of requests, without a call for each; anything else one by one."""
    kinds = set(map(type, given)) if isinstance(given, list) and len(given) <= MAX_CANDIDATES else set()
    if kinds == {str} and max(map(len, given)) <= MAX_TEXT:
        return list(given)
    if kinds == {int} and fits(min(given)) and fits(max(given)):
        return list(map(str, given))
    checked: list[str | Candidate] = check(given)
    return checked


# Told apart by their JSON type, so that a fault is reported for the one that was meant alone.
AnyCandidate = Annotated[Annotated[Id, Tag("id")] | Annotated[Candidate, Tag("object")], Discriminator(_kind)]
Candidates = Annotated[
    list[AnyCandidate],
    Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True),
    WrapValidator(_in_one_go),
]


class RankRequest(Wire):
    """One user, and the candidates to put in order.

    Names of features are those of the tables: `user` overrides or completes the user's stored row, `context`
    is what only this request knows, as the hour or the tab.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "7", "candidates": ["11", "12", "13"]},
                {
                    "user_id": 7,
                    "context": {"tab": "1", "hour": 20},
                    "candidates": [11, {"id": 12, "features": {"duration": 17.5}}],
                    "limit": 10,
                    "tasks": True,
                },
            ]
        }
    )

    request_id: Annotated[str, Field(pattern=REQUEST_ID)] | None = None
    """Comes back in the answer and in the log; made up where it is not given."""
    ranker: Name = "default"
    user_id: Id | None = None
    user: Features = Field(default_factory=dict)
    context: Features = Field(default_factory=dict)
    candidates: Candidates
    """Ids, or objects with an id and features. An id that comes twice is ranked twice."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Answer with the best so many; all of them where it is not given."""
    tasks: bool = False
    """Answer with every task's score, too."""
    explain: bool = False
    """Answer with every factor's part in the score, too."""
    fusion: FusionFormula | None = None
    """A formula for this request alone, where the operator allows it."""
    deadline_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """From the request's arrival; the operator sets what holds without it, and the most."""


class FactorLog(Answer):
    """One factor's part: `weight * log(offset + scale * x)`; null where the model gave no number."""

    name: str
    log: float | None


class GroupLog(Answer):
    """One group of the formula: `log_weight` and the factors' logs add up to `log_score`."""

    log_weight: float
    log_score: float | None
    factors: list[FactorLog]


class RankedItem(Answer):
    """A candidate in its place.

    `score` is null, and the place the last, where the model gave no finite number for what the formula reads.
    """

    id: str
    score: float | None
    tasks: dict[str, float | None] | None = None
    factors: list[GroupLog] | None = None


class Defaults(Answer):
    """How many ids came without any features, stored or sent, and were ranked as an average one."""

    users: int
    items: int


class RankResponse(Answer):
    """The slate: candidates from the best to the worst, equal ones in the order they were sent."""

    request_id: str
    ranker: str
    version: str
    items: list[RankedItem]
    degraded: list[str]
    """Stores that failed and were done without."""
    defaults: Defaults
    timings_ms: dict[str, float]


class Promotion(Wire):
    """What a ranker shall serve."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "20220506-1"}]})

    version: Name


class FeatureRow(Wire):
    """What is known of a key from now on, whole."""

    key: RowKey
    """An id; or for a table whose key has several parts, a list of them."""
    fields: Features


class FeatureRows(Wire):
    """Rows of one table; a key that comes twice is written once, as it came last."""

    rows: Annotated[list[FeatureRow], Field(min_length=1, max_length=MAX_ROWS, fail_fast=True)]


class Fault(Answer):
    """Why the service says no."""

    type: str
    """A word to branch on; it stays as it is, whatever the message says."""
    message: str
    field: str | None = None
    """Path of the culprit in the request, as `candidates[3].features.duration`."""
    reasons: dict[str, str] | None = None
    """For a refused swap: worker -> why it could not load the version."""
    request_id: str | None = None


class FaultResponse(Answer):
    """The body of every answer that is not a 2xx."""

    error: Fault
