"""The migration step on a real PostgreSQL: each file once, whole or not at all, however often and by whomever."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from deploy import migrate
from tests.support.read_model import PROJECT, TABLES, database, looking, whole
from tests.support.servers import PostgresServer

pytestmark = pytest.mark.servers

FILES = [file.name for file in sorted(migrate.MIGRATIONS.glob("*.sql"))]


async def applied(address: str) -> list[str]:
    async with looking(address) as connection:
        return [row["name"] for row in await connection.fetch("SELECT name FROM schema_migrations ORDER BY name")]


async def test_all_files_once(postgres_server: PostgresServer) -> None:
    address = await database(postgres_server, migrated=False)
    assert await migrate.apply(address) == FILES
    assert await migrate.apply(address) == []
    assert await applied(address) == FILES
    assert await whole(address) == {table: [(True, 0)] if table == "position" else [] for table in TABLES}


async def test_many_at_once_wait_for_one_another(postgres_server: PostgresServer) -> None:
    address = await database(postgres_server, migrated=False)
    done = await asyncio.gather(*(migrate.apply(address) for _ in range(8)))
    assert sorted(done, key=len) == [[]] * 7 + [FILES]


async def test_a_file_that_fails_leaves_nothing_and_can_be_mended(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await database(postgres_server, migrated=False)
    monkeypatch.setattr(migrate, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_good.sql").write_text("CREATE TABLE good (n int);")
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE half (n int); SELEKT;")
    (tmp_path / "0003_never.sql").write_text("CREATE TABLE never (n int);")
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await migrate.apply(address)
    assert await applied(address) == ["0001_good.sql"]
    async with looking(address) as connection:
        assert await connection.fetchval("SELECT to_regclass('half')") is None
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE half (n int);")
    assert await migrate.apply(address) == ["0002_bad.sql", "0003_never.sql"]


async def test_a_rebuild_starts_from_an_emptied_schema(postgres_url: str) -> None:
    async with looking(postgres_url) as connection:
        await connection.execute("INSERT INTO weights VALUES (1, now(), '{}'); UPDATE position SET sequence = 1")
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert await migrate.apply(postgres_url) == FILES
    assert (await whole(postgres_url))["position"] == [(True, 0)]


async def test_the_release_before_writes_nothing_into_what_was_migrated(postgres_url: str) -> None:
    """Its API may still run while this one's migrations are applied."""
    async with looking(postgres_url) as connection:
        with pytest.raises(asyncpg.NotNullViolationError):
            await connection.execute(
                "INSERT INTO submissions (submission_id, status, final_score, created_at, updated_at, state) "
                "VALUES ('s1', 'pending', NULL, now(), now(), '{}')"
            )


async def test_what_the_release_before_projected_is_projected_again(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await database(postgres_server, migrated=False)
    (tmp_path / FILES[0]).write_text((migrate.MIGRATIONS / FILES[0]).read_text())
    with monkeypatch.context() as before:
        before.setattr(migrate, "MIGRATIONS", tmp_path)
        assert await migrate.apply(address) == FILES[:1]
    async with looking(address) as connection:
        await connection.execute("INSERT INTO submissions VALUES ('s1', 'pending', NULL, now(), now(), '{}')")
        await connection.execute("INSERT INTO weights VALUES (2, now(), '{}'); UPDATE position SET sequence = 2")
    assert await migrate.apply(address) == FILES[1:]
    assert await whole(address) == {table: [(True, 0)] if table == "position" else [] for table in TABLES}


def command(**settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.migrate"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command(postgres_server: PostgresServer) -> None:
    address = await database(postgres_server, migrated=False)
    for _ in range(2):
        done = command(TOURNAMENT_POSTGRES_URL=address)
        assert (done.returncode, done.stderr) == (0, "")
    assert await applied(address) == FILES


def test_the_command_without_an_address() -> None:
    done = command()
    assert (done.returncode, done.stderr) == (2, "migrate: TOURNAMENT_POSTGRES_URL is not set\n")
