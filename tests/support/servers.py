"""A real NATS server for each test and a fresh database in a real PostgreSQL: from wheels, so never skipped."""

import asyncio
import dataclasses
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncpg
import nats
import pytest

from deploy import migrate, streams
from deploy.local import nats as local_nats
from deploy.local import postgres as local_postgres
from deploy.local.program import Program, free_port
from shared import bus
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.streams import CONSUMERS

T = TypeVar("T")
DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.02
ACK_WAIT_SECONDS = 2.0
"""Shorter than in production, so that what a killed replica held comes back soon."""


async def eventually(condition: Callable[[], Awaitable[T | None]], *, seconds: float = DEADLINE_SECONDS) -> T:
    """The condition's first true answer; fails when there is none in time."""
    async with asyncio.timeout(seconds):
        while True:
            if answer := await condition():
                return answer
            await asyncio.sleep(POLL_SECONDS)


@contextmanager
def running(program: Program, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The program, stopped at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(program.command, stdout=output, stderr=output, **program.options())
    try:
        yield process
    finally:
        process.send_signal(program.stop_signal)
        process.wait(DEADLINE_SECONDS)


@dataclass
class NatsServer:
    """A server that can be killed with all its connections and started again on the same port and store."""

    folder: Path
    port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: f"t{secrets.token_hex(8)}")
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return local_nats.url(port=self.port, token=self.token)

    def start(self) -> None:
        """Start it; returns when it answers."""
        program = local_nats.server(self.folder / "jetstream", port=self.port, token=self.token)
        with (self.folder / "nats.log").open("ab") as output:
            self.process = subprocess.Popen(program.command, stdout=output, stderr=output, **program.options())
        asyncio.run(_until_ready(program))

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


async def _until_ready(program: Program) -> None:
    assert program.ready is not None
    await eventually(program.ready)


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A fresh server with the declared stream and consumers."""
    server = NatsServer(tmp_path)
    server.start()
    try:
        asyncio.run(_declare(server.url))
        yield server
    finally:
        server.kill()


async def _declare(url: str) -> None:
    client = await nats.connect(url)
    quick = [dataclasses.replace(consumer, ack_wait_seconds=ACK_WAIT_SECONDS) for consumer in CONSUMERS]
    await streams.apply(client, consumers=quick)
    await client.close()


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Bus]:
    async with bus.connect(nats_url, producer="test") as connected:
        yield connected


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """Where the session's server is."""

    port: int
    password: str

    def url(self, database: str = "postgres") -> str:
        return local_postgres.url(port=self.port, password=self.password, database=database)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server for the whole session."""
    folder = tmp_path_factory.mktemp("postgres")
    server = PostgresServer(port=free_port(), password=secrets.token_hex(8))
    local_postgres.prepare(folder / "cluster", password=server.password)
    program = local_postgres.server(folder / "cluster", port=server.port, password=server.password)
    with running(program, folder / "postgres.log"):
        asyncio.run(_until_ready(program))
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A fresh database with the read model's schema."""
    name = f"test_{secrets.token_hex(6)}"
    asyncio.run(_create(postgres_server, name))
    return postgres_server.url(name)


async def _create(server: PostgresServer, name: str) -> None:
    connection = await asyncpg.connect(server.url())
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    await migrate.apply(server.url(name))
