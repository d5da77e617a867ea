"""`rankserve features load`: from a version or a file into a real Redis, and what it says."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmarks.redis_server import RedisServer
from service.bundle.errors import BundleError
from service.cli import cli
from service.cli_features import BATCH
from service.errors import InvalidRequest, RankserveError, StoreFailed, UnknownVersion
from service.features.redis import RedisFeatureStore
from service.features.store import Row, RowKey
from tests.resealed import reseal
from tests.service.features.stores import PATIENT
from tests.tiny import Tiny, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The version v1."""
    return write_tiny(tmp_path_factory.mktemp("bundles"), "v1")


def load(*arguments: object) -> Result:
    """A command."""
    patient = {"RANKSERVE_REDIS_CONNECT_TIMEOUT_MS": "10000"}
    return CliRunner().invoke(cli, ["features", "load", *map(str, arguments)], env=patient)


def stored(server: RedisServer, keys: Sequence[RowKey]) -> Mapping[RowKey, Row | None]:
    """What Redis holds."""

    async def fetch() -> Mapping[RowKey, Row | None]:
        store = RedisFeatureStore(server.url, PATIENT)
        try:
            return await store.fetch(keys)
        finally:
            await store.close()

    return asyncio.run(fetch())


def test_a_version_is_loaded_as_its_tables_are(redis: RedisServer, tiny: Tiny) -> None:
    """Every row of every table, every field, with the version's own name and time; a later row stays."""
    done = load("v1", "--redis", redis.url, "--models", tiny.folder.parent)
    assert done.exit_code == 0, done.output
    tables = tiny.encoder.tables
    rows = {(name, *key): fields for name, table in tables.items() for key, fields in table.each()}
    assert f"loaded {len(rows)} of {len(rows)} rows (author_stats 15, item 200," in done.output
    found = stored(redis, list(rows))
    assert {key: row.fields for key, row in found.items() if row} == rows
    marks = {(row.stamp_ms, row.version) for row in found.values() if row}
    assert marks == {(1_767_225_600_000, "v1")}  # 2026-01-01


def test_a_file_is_loaded_line_by_line(redis: RedisServer, tiny: Tiny, tmp_path: Path) -> None:
    """Keys of one and of several parts; and what a version holds is older than it."""
    lines: list[dict[str, object]] = [
        {"table": "item", "key": 3, "fields": {"length": 5.5, "tags": ["t1"]}},
        {"table": "user_author", "key": ["1", "a:1"], "fields": {"rate": 0.25}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    done = load(path, "--redis", redis.url)
    assert done.output.startswith("loaded 2 of 2 rows (item 1, user_author 1) in ")
    found = stored(redis, [("item", "3"), ("user_author", "1", "a:1")])
    assert [row.fields for row in found.values() if row] == [line["fields"] for line in lines]
    assert {row.version for row in found.values() if row} == {None}
    done = load("v1", "--redis", redis.url, "--models", tiny.folder.parent, "--table", "item")
    assert "loaded 199 of 200 rows (item 200)" in done.output
    assert "1 stay as they were" in done.output


def test_keys_that_come_again_are_counted_apart(redis: RedisServer, tmp_path: Path) -> None:
    """They are written in their order; nothing in Redis was later than they are, and nothing says so."""
    path = tmp_path / "rows.jsonl"
    lines = [{"table": "item", "key": at % 3, "fields": {"n": at}} for at in range(BATCH + 5)]
    path.write_text("\n".join(map(json.dumps, lines)))
    done = load(path, "--redis", redis.url)
    total = len(lines)
    assert f"loaded {total} of {total} rows (item {total})" in done.output
    assert f"{total - 3} have a key that came before: of these the last one holds" in done.output
    assert "stay as they were" not in done.output
    found = stored(redis, [("item", str(at)) for at in range(3)])
    last = {line["key"]: line["fields"] for line in lines}
    assert [row.fields for row in found.values() if row] == [last[at] for at in range(3)]


def test_each_table_that_met_no_row_is_named(redis: RedisServer, tiny: Tiny, tmp_path: Path) -> None:
    """Though others did: of a file after these are loaded, of a version before anything is."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"table": "item", "key": "1", "fields": {}}')
    tables = ["--table", "item", "--table", "itme", "--table", "usr"]
    done = load(path, "--redis", redis.url, *tables)
    assert "loaded 1 of 1 rows" in done.output
    assert str(done.exception) == "rows.jsonl has no row of --table itme, usr"
    done = load("v1", "--redis", redis.url, "--models", tiny.folder.parent, *tables)
    assert str(done.exception).startswith("v1 has no --table itme, usr; it has user, item, author_stats")
    assert stored(redis, [("item", "2")]) == {}


def test_a_row_too_large_is_named(redis: RedisServer, tmp_path: Path) -> None:
    """By its table and key, with the fix."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"table": "user", "key": "7", "fields": {"seen": ["x" * 100] * 700}}))
    done = load(path, "--redis", redis.url)
    assert isinstance(done.exception, InvalidRequest)
    assert str(done.exception).startswith("user.7: takes 71,")
    assert "shorten its lists" in str(done.exception)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "rows.jsonl:2"),
        ('{"table": "item", "key": "1"}', "rows.jsonl:2: fields"),
        ('{"table": "a b", "key": "1", "fields": {}}', "rows.jsonl:2: table"),
        ('{"table": "item", "key": "1", "fields": {"x": {}}}', "rows.jsonl:2: fields"),
        ('{"table": "item", "key": "1", "fields": {"x": NaN}}', "rows.jsonl:2: fields"),
    ],
)
def test_a_wrong_line_is_named(redis: RedisServer, tmp_path: Path, line: str, said: str) -> None:
    """By its number and what is wrong in it."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"table": "item", "key": "1", "fields": {}}\n' + line)
    done = load(path, "--redis", redis.url)
    assert isinstance(done.exception, InvalidRequest)
    assert str(done.exception).startswith(said)


def test_what_cannot_be_loaded(redis: RedisServer, tiny: Tiny, tmp_path: Path) -> None:
    """One line says why, and what to do."""
    models = ["--models", tiny.folder.parent]

    def refused(*arguments: object) -> BaseException | None:
        return load(*arguments).exception

    assert isinstance(refused("v9", "--redis", redis.url, *models), UnknownVersion)
    assert isinstance(refused(tmp_path / "no.jsonl", "--redis", redis.url), RankserveError)
    assert "--redis" in str(refused("v1", *models))
    assert "--table" in str(refused("v1", "--redis", redis.url, *models, "--table", "items"))
    assert load("v1", "--redis", "http://x", *models).exit_code == 2
    broken = write_tiny(tmp_path, "v2")
    (broken.folder / "items.npz").write_bytes(b"no table")
    assert isinstance(refused("v2", "--redis", redis.url, "--models", tmp_path), BundleError)
    redis.kill()
    assert isinstance(refused("v1", "--redis", redis.url, *models), StoreFailed)


def test_the_variable_names_the_redis(
    redis: RedisServer, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every setting's does."""
    monkeypatch.setenv("RANKSERVE_REDIS", redis.url)
    monkeypatch.setenv("RANKSERVE_REDIS_PREFIX", "other:")
    assert load("v1", "--models", tiny.folder.parent, "--table", "user").exit_code == 0
    assert stored(redis, [("user", "1")]) == {}


def test_a_version_of_the_future_is_refused(redis: RedisServer, tmp_path: Path) -> None:
    """Its rows would hide what is written until then."""
    folder = write_tiny(tmp_path, "v1").folder
    reseal(folder, lambda manifest: manifest.update(created="2999-01-01T00:00:00+00:00"))
    done = load("v1", "--redis", redis.url, "--models", tmp_path)
    assert isinstance(done.exception, RankserveError)
    assert "clock" in str(done.exception)
    assert stored(redis, [("item", "1")]) == {}


def test_the_connection_may_take_as_long_as_the_setting_says(
    redis: RedisServer, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time that no connection can keep fails."""
    arguments = ["features", "load", "v1", "--redis", redis.url, "--models", str(tiny.folder.parent)]
    done = CliRunner().invoke(cli, arguments, env={"RANKSERVE_REDIS_CONNECT_TIMEOUT_MS": "1e-6"})
    assert isinstance(done.exception, StoreFailed)
