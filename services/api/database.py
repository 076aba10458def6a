"""PostgreSQL as this service uses it: one connection that writes, a small pool that only reads, faults told apart."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TypeAlias

import asyncpg

from services.api.sql import SQL
from shared.faults import TransientFault

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

CONNECT_SECONDS = 5.0
WRITE_SECONDS = 60.0
READ_SECONDS = 2.0
READERS = 4

AWAY_CLASSES = ("08", "28", "3D", "40", "53", "57", "58")
"""SQLSTATE classes that are nobody's bug: no connection, no admission, no such database, a deadlock, nothing left of a
resource, an operator's doing (a shutdown, a timeout), a failing disk.
"""
NO_SCHEMA = "the database has no schema, or that of an older release; run `python -m deploy.migrate`"


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Around every use of the database.

    Raises:
        TransientFault: it is away, or not ready for use; the message is fit for anybody to read. What else goes wrong
            is a bug and stays one.
    """
    try:
        yield
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise TransientFault(NO_SCHEMA) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        if not _is_away(error):
            raise
        raise TransientFault(f"PostgreSQL does not answer ({type(error).__name__})") from error


def _is_away(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(AWAY_CLASSES)
    return not isinstance(error, ValueError)  # asyncpg's word for an argument that cannot be sent


@contextlib.asynccontextmanager
async def writer(url: str) -> AsyncIterator[Connection]:
    """A connection for the projection.

    Raises:
        TransientFault: PostgreSQL is away.
    """
    with faults():
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=WRITE_SECONDS,
            server_settings={
                "application_name": "api-projection",
                # A machine that vanished must not hold the position for the other replicas.
                "idle_in_transaction_session_timeout": _milliseconds(WRITE_SECONDS),
            },
        )
    try:
        yield connection
    finally:
        with contextlib.suppress(TransientFault), faults():
            await connection.close(timeout=CONNECT_SECONDS)


def readers(url: str) -> Pool:
    """A pool for the routes, to be opened with `async with`. It connects when asked, so PostgreSQL may be away."""

    async def keep(connection: object) -> None:
        """Nothing to reset: a statement that only reads leaves nothing behind, and asking costs a round trip."""

    return asyncpg.create_pool(
        url,
        min_size=0,
        max_size=READERS,
        timeout=READ_SECONDS,
        command_timeout=2 * READ_SECONDS,
        reset=keep,
        server_settings={
            "application_name": "api-reads",
            "default_transaction_read_only": "on",
            "statement_timeout": _milliseconds(READ_SECONDS),
        },
    )


async def read(pool: Pool, name: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of a named statement.

    Raises:
        TransientFault: PostgreSQL is away, or too slow.
    """
    with faults():
        async with pool.acquire(timeout=READ_SECONDS) as connection:
            return await connection.fetch(SQL[name], *arguments)


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
