"""Where settings come from and which are refused."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings


def test_every_setting_has_a_help_text() -> None:
    """`--help` and the README say what each is for."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_environment_is_read_under_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANKSERVE_X sets x; what is given in code comes first."""
    monkeypatch.setenv("RANKSERVE_PORT", "9001")
    monkeypatch.setenv("RANKSERVE_WORKERS", "3")
    monkeypatch.setenv("RANKSERVE_ALLOW_REQUEST_FUSION", "1")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/tmp/metrics")
    settings = Settings(workers=2)
    assert (settings.port, settings.workers, settings.allow_request_fusion) == (9001, 2, True)
    assert settings.metrics_dir == Path("/tmp/metrics")


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a log line nor a traceback that shows the settings gives it away."""
    monkeypatch.setenv("RANKSERVE_TOKEN", "hush-hush")
    settings = Settings()
    assert settings.token is not None
    assert settings.token.get_secret_value() == "hush-hush"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("url", ["redis://:hush@host:6379/0", "rediss://host", "unix:///run/redis.sock?db=1"])
def test_the_password_of_redis_is_never_shown(url: str) -> None:
    """It is part of the URL, so none of that is; another process gets it all the same."""
    settings = Settings(redis=SecretStr(url))
    assert "hush" not in repr(settings)
    assert settings.environment() == {"RANKSERVE_REDIS": url}


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000}, {"workers": 0}, {"provider": "tpu"}, {"share_runs": "always"}, {"token": ""},
        {"max_candidates": 0}, {"deadline_ms": 0}, {"deadline_ms": float("inf")},
        {"deadline_ms": 5_000, "max_deadline_ms": 1_000}, {"max_candidates": 300, "max_queued_rows": 299},
        {"drain_grace_s": 60}, {"no_such": 1}, {"redis": ""}, {"redis": "localhost:6379"},
        {"redis": "http://host"}, {"redis": "redis://host:port"}, {"redis": "redis://host?socket_timeout=9"},
        {"redis": "redis://host/0?db=1"}, {"redis": "unix:///x?bogus=1"}, {"redis": "unix:///x?db=0&bogus=1"},
        {"features_timeout_ms": 0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    """At the start, not with the first request."""
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_a_request_cannot_ask_for_more_time_than_the_operator_gives() -> None:
    """The default where it names none, its own where that is less, and never more than the most."""
    settings = Settings(deadline_ms=500, max_deadline_ms=2_000)
    assert [settings.deadline_s(asked) for asked in (None, 20, 9_999)] == [0.5, 0.02, 2.0]
