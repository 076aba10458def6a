"""Deploy step: brings the read model's schema up to date. `python -m deploy.migrate`, again at will.

Migrations are plain SQL files, applied in order of their number, each once, each in a transaction of its own.
"""

import os
from pathlib import Path

import asyncpg

from shared import environment, process

MIGRATIONS = Path(__file__).with_name("migrations")
LOCK = 7_205_759_403
"""Any number that nothing else in the database uses for its advisory locks."""


async def apply(url: str) -> list[str]:
    """Apply what is missing and return its names. Two at a time wait for one another.

    Raises:
        OSError, asyncpg.PostgresError: the server is away or refuses.
    """
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"
        )
        known = {row["name"] for row in await connection.fetch("SELECT name FROM schema_migrations")}
        missing = [file for file in sorted(MIGRATIONS.glob("*.sql")) if file.name not in known]
        for file in missing:
            async with connection.transaction():
                await connection.execute(file.read_text())
                await connection.execute("INSERT INTO schema_migrations (name) VALUES ($1)", file.name)
        return [file.name for file in missing]
    finally:
        await connection.close()


async def main() -> None:
    await apply(environment.text(os.environ, "TOURNAMENT_POSTGRES_URL"))


if __name__ == "__main__":
    raise SystemExit(process.run("migrate", main))
