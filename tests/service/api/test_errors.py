"""The table of answers: every kind of error has one, and one shape."""

from collections.abc import Iterator

import pytest

from service import errors
from service.api.errors import TABLE, answer, path
from service.bundle.errors import FeatureError, FusionError
from service.wire import FaultResponse


def kinds(kind: type[Exception]) -> Iterator[type[Exception]]:
    """A kind of error and all below it."""
    for below in kind.__subclasses__():
        yield below
        yield from kinds(below)


def test_every_error_of_the_service_has_an_answer() -> None:
    """A new kind of error needs a line in the table."""
    assert [kind for kind in kinds(errors.RankserveError) if kind not in TABLE] == []


SAMPLES = [
    (errors.Unauthorized("no"), 401),
    (errors.Forbidden("no"), 403),
    (errors.UnknownRanker("x", ["a"]), 404),
    (errors.UnknownVersion("x"), 404),
    (errors.SwapRefused("no", {"w": "why"}), 409),
    (errors.Superseded("no"), 409),
    (errors.TooLarge("no"), 413),
    (errors.UnsupportedMedia("no"), 415),
    (errors.InvalidRequest("user.age", "no"), 422),
    (errors.InvalidRequest(None, "no"), 422),
    (FeatureError("user.age", "no"), 422),
    (FusionError("click", "no"), 422),
    (errors.Overloaded(0.01), 429),
    (errors.InferenceFailed(), 500),
    (errors.NotReady("no"), 503),
    (errors.DeadlineExceeded(), 504),
    (errors.NotFollowed("default", "v2", {"w": "why"}), 504),
]


@pytest.mark.parametrize(("error", "status"), SAMPLES, ids=lambda value: type(value).__name__)
def test_errors_become_statuses(error: Exception, status: int) -> None:
    """One body for all, with the request's id; what counts the outcome reads the same type."""
    scope = {"type": "http", "headers": [], "state": {"request_id": "r"}}
    response = answer(scope, error)
    assert response.status_code == status
    body = FaultResponse.model_validate_json(bytes(response.body), strict=True, extra="forbid")
    assert body.error.request_id == "r"
    assert body.error.type == scope["state"]["outcome"]  # type: ignore[index]


@pytest.mark.parametrize(("error", "status"), SAMPLES, ids=lambda value: type(value).__name__)
def test_what_the_service_is_to_blame_for_is_logged(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault with what led to it, a refusal in a line, by the request's id; a caller's fault not."""
    answer({"type": "http", "headers": [], "state": {"request_id": "r"}}, error)
    logged = [
        (record.exc_info[1] if record.exc_info else None, vars(record)["request_id"])
        for record in caplog.records
    ]
    assert logged == ([(error if status == 500 else None, "r")] if status >= 500 else [])


@pytest.mark.parametrize(("seconds", "header"), [(0.001, "1"), (1.0, "1"), (1.2, "2"), (30.0, "30")])
def test_retry_after_is_in_whole_seconds(seconds: float, header: str) -> None:
    """Rounded up, and never 0: that means at once."""
    response = answer({"type": "http", "headers": []}, errors.Overloaded(seconds))
    assert response.headers["retry-after"] == header


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((), ""),
        (("limit",), "limit"),
        (("candidates", 3, "id"), "candidates[3]"),
        (("candidates", 3, "object", "features", "id"), "candidates[3].features.id"),
        (("fusion", "groups", 0, "factors", 2, "weight"), "fusion.groups[0].factors[2].weight"),
        (("x" * 500,), "x" * 100),
    ],
)
def test_paths_are_what_a_caller_would_write(location: tuple[str | int, ...], expected: str) -> None:
    """Without the steps that only pydantic knows, and never long."""
    assert path(location) == expected
