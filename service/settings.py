"""Every setting of the service, read once from RANKSERVE_* variables and the command line.

The only module beside the supervisor that reads the environment. Help texts here are the ones that
`rankserve serve --help` and the README show.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.wire import MAX_CANDIDATES

Provider = Literal["auto", "cpu", "cuda"]
ShareRuns = Literal["auto", "never"]
Precision = Literal["auto", "float32", "int8"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """Settings of one process; the same in every worker."""

    model_config = SettingsConfigDict(
        env_prefix="RANKSERVE_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
    )

    models: Path = Path("models")
    """Folder of the bundles and of deployment.json."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    workers: int | None = Field(None, ge=1, le=256)
    """Worker processes, each with its own copy of every model; one for each core, as far as the memory goes,
    or one for a GPU, where nothing is said."""
    token: SecretStr | None = Field(None, min_length=1)
    """Bearer token of the operators' routes (promote, rollback, features, workers); closed without one."""

    max_candidates: int = Field(2_000, ge=1, le=MAX_CANDIDATES)
    """Most candidates in a request; more are refused with 422."""
    max_body_bytes: int = Field(4 * 2**20, ge=1_024)
    """Largest body that is read; a larger one is refused with 413."""
    allow_request_fusion: bool = False
    """Let a request bring a fusion formula of its own."""

    deadline_ms: float = Field(1_000, gt=0, allow_inf_nan=False)
    """Deadline of a request that names none."""
    max_deadline_ms: float = Field(10_000, gt=0, allow_inf_nan=False)
    """The longest deadline that a request can ask for; a longer one is cut to it."""
    max_queued_rows: int = Field(20_000, ge=1)
    """Most rows that wait for the engine; beyond them requests get 429 at once."""
    max_batch_rows: int = Field(2_048, ge=1)
    """Most rows run together; one request may have more, and several on a CPU have at most 1,024."""
    share_runs: ShareRuns = "auto"
    """May requests that wait be run together? auto measures which share runs; never is one by one."""

    redis: SecretStr | None = Field(None, min_length=1)
    """Redis of the features, as redis://host:6379/0; without it they are the bundles' own."""
    redis_prefix: str = Field("rankserve:", min_length=1, max_length=100)
    """What every key in Redis begins with; services with features of their own each need another."""
    redis_connect_timeout_ms: float = Field(250, gt=0, allow_inf_nan=False)
    """How long a new connection to Redis may take; no request waits for it longer than the next one says."""
    features_timeout_ms: float = Field(150, gt=0, allow_inf_nan=False)
    """How long a request waits for the feature store, at most half of its deadline; it then does without."""
    features_ttl_s: float = Field(60, gt=0, allow_inf_nan=False)
    """How long a worker keeps a row, and that there is none, unless it hears of a change before."""
    features_near_rows: int = Field(50_000, ge=1)
    """Most rows that a worker keeps, some KB each. Of a request that lacks more of them, some items are
    looked up each time."""

    provider: Provider = "auto"
    """What computes; auto takes CUDA where it works and the CPU elsewhere."""
    precision: Precision = "auto"
    """Of the deeper layers; auto takes int8 where a bundle has it and it is measured to be faster here."""
    intra_op_threads: int | None = Field(None, ge=1, le=256)
    """Threads of a worker's engine; its part of the cores where nothing is said. More workers are nearly
    always better than more threads."""

    inline_ms: float | None = Field(None, ge=0, le=1_000, allow_inf_nan=False)
    """A run that should take no longer is done on the event loop, and not in a thread beside it; 0 does none
    so. Where nothing is said 10, if every core has a worker: a thread would have to wait for one."""

    state_mib: int | None = Field(None, ge=1)
    """Memory of the items' state, of all versions and workers together; a quarter of the machine's where
    nothing is said. Catalogues that do not fit are computed on demand. Room for two versions keeps both
    resident: with less, the next one is on demand until a restart, and `/v1/models` says so."""
    state_dir: Path | None = None
    """Where workers share the items' state, in a folder of their own; the system's for temporary files where
    nothing is said."""

    drain_grace_s: float = Field(5, ge=0, le=3_600, allow_inf_nan=False)
    """How long a worker that is told to stop goes on to accept, so that load balancers notice first."""
    drain_limit_s: float = Field(60, gt=0, le=3_600, allow_inf_nan=False)
    """Workers that have not ended so long after they were told to are killed."""
    swap_timeout_s: float = Field(120, gt=0, allow_inf_nan=False)
    """How long a promotion waits for every worker to load the version."""
    metrics_dir: Path | None = Field(None, validation_alias="PROMETHEUS_MULTIPROC_DIR")
    """Where workers share their metrics; the supervisor sets it, under prometheus_client's own name."""
    log_level: LogLevel = "info"
    """Least severe log lines that are written; as JSON to the standard error."""

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.deadline_ms > self.max_deadline_ms:
            raise ValueError("deadline_ms is more than max_deadline_ms; lower it or raise the other")
        if self.max_queued_rows < self.max_candidates:
            raise ValueError("max_queued_rows is less than max_candidates; raise it or lower the other")
        if self.redis is not None:
            _check_redis(self.redis.get_secret_value())
        if self.drain_grace_s >= self.drain_limit_s:
            raise ValueError("drain_grace_s is not less than drain_limit_s; lower it or raise the other")
        return self

    def environment(self) -> dict[str, str]:
        """The variables that give another process these settings."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"metrics_dir"}}
        return {
            f"RANKSERVE_{name.upper()}": value.get_secret_value()
            if isinstance(value, SecretStr)
            else str(value)
            for name, value in given.items()
            if value is not None
        }

    def deadline_s(self, asked_ms: float | None) -> float:
        """Seconds that a request may take, counted from its arrival."""
        return min(asked_ms or self.deadline_ms, self.max_deadline_ms) / 1e3


def _check_redis(url: str) -> None:
    """Raise ValueError unless it is the URL of a Redis; the message does not repeat it, or its password."""
    parts = urlsplit(url)
    try:
        sound = parts.scheme == "unix" or (parts.scheme in {"redis", "rediss"} and parts.port != 0)
    except ValueError:  # of the port
        sound = False
    if not sound:
        raise ValueError("redis is no URL of a Redis; write it as redis://host:6379/0, rediss:// or unix://")
    # The client would take any other for an option of its own, in place of our limits.
    if parts.query and not (parts.scheme == "unix" and re.fullmatch("db=[0-9]+", parts.query)):
        raise ValueError("redis has options after its ?; leave them out, but for the db of unix://path?db=0")
