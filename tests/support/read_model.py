"""The API as a process, streams to project, and the read model as a whole, to be compared with another."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import msgspec
import nats

from deploy import migrate
from deploy.local import postgres as local_postgres
from deploy.local.program import Program, free_port
from services.verifier.ranking import Ranking, apply
from shared.events import Event, Payment, Recorded, encode
from shared.ids import derive_id
from shared.request import claim_id, transfer_reference
from shared.streams import STREAM
from tests.support.servers import DEADLINE_SECONDS, PostgresServer, eventually
from tests.support.stories import (
    ALICE,
    BOB,
    CODE,
    COMPETITION,
    claimed,
    completed,
    disqualified,
    paid,
    record,
    reinstated,
    requested,
    started,
    verified,
)

PROJECT = Path(__file__).parents[2]
HPARAMS = PROJECT / "hparams" / "demo.json"
TABLES = (
    "position",
    *("submissions", "claims", "credits"),
    *("evaluations", "finishes", "standings"),
    *("weights", "dead_letters"),
)


@dataclass(kw_only=True)
class Api:
    """One replica of the service, as its operator starts it."""

    nats_url: str
    postgres_url: str
    log: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = {
            "TOURNAMENT_NATS_URL": self.nats_url,
            "TOURNAMENT_POSTGRES_URL": self.postgres_url,
            "TOURNAMENT_HPARAMS": str(HPARAMS),
            "TOURNAMENT_API_PORT": str(self.port),
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.api.main"],
                cwd=PROJECT,
                env={"PATH": os.environ["PATH"], **settings},
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(DEADLINE_SECONDS)

    def said(self, what: str) -> int:
        """How many lines of its log contain this."""
        return sum(what in line for line in self.log.read_text().splitlines())

    async def health(self) -> dict[str, object] | None:
        """What it says of itself, or None while nobody answers."""
        async with httpx.AsyncClient() as client:
            try:
                answer: dict[str, object] = (await client.get(f"{self.url}/health")).json()
            except httpx.TransportError:
                return None
        return answer

    async def until(self, **wanted: object) -> dict[str, object]:
        """Its health, once that says all of this."""

        async def healthy() -> dict[str, object] | None:
            answer = await self.health()
            return answer if answer is not None and wanted.items() <= answer.items() else None

        return await eventually(healthy)


@contextlib.contextmanager
def serving(api: Api) -> Iterator[Api]:
    """It runs, and ends in order at the end unless the test ended it."""
    api.start()
    assert api.process is not None
    try:
        yield api
    finally:
        if api.process.poll() is None:
            assert api.stop() == 0, api.log.read_text()


@dataclass(kw_only=True)
class PostgresCluster:
    """A server of a test's own, to be killed."""

    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(8))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return local_postgres.url(port=self.port, password=self.password)

    @property
    def program(self) -> Program:
        return local_postgres.server(self.folder / "cluster", port=self.port, password=self.password)

    def prepare(self) -> None:
        local_postgres.prepare(self.folder / "cluster", password=self.password)

    async def start(self) -> None:
        """Start it; returns when it answers. More than once if need be: what a killed one left takes a moment to go."""

        async def up() -> bool:
            if self.process is None or self.process.poll() is not None:
                with (self.folder / "postgres.log").open("ab") as output:
                    self.process = subprocess.Popen(
                        self.program.command, stdout=output, stderr=output, **self.program.options()
                    )
            assert self.program.ready is not None
            return await self.program.ready()

        await eventually(up)

    def kill(self) -> None:
        """kill -9, as a machine that loses its power: a backend left to itself would still write what it was sent."""
        assert self.process is not None
        of_it = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = of_it.read_text().split() if self.process.poll() is None else []
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.wait()


async def database(server: PostgresServer, *, migrated: bool = True) -> str:
    """One more fresh database on the session's server; returns its address."""
    name = f"test_{secrets.token_hex(6)}"
    async with looking(server.url()) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    if migrated:
        await migrate.apply(server.url(name))
    return server.url(name)


def submission_id(number: int) -> str:
    return derive_id("test", number)


def life(number: int, *, competition: str = COMPETITION) -> list[Event]:
    """A whole story of one submission: every third one fails, the others pass three runs. Every tenth is disqualified,
    every tenth is so for a while; every seventh claimed its payment before.
    """
    name, evaluation = submission_id(number), derive_id("evaluation", number)
    runs = range(1 if number % 3 == 2 else 3)
    failure = "output_mismatch" if number % 3 == 2 else None
    reference = transfer_reference(f"0x{number:064x}", 2)
    payment = Payment(reference=reference, amount_rao=100_000_000, payer=BOB, recipient=BOB, block_number=number)
    waiting = msgspec.structs.replace(
        claimed(claim_id(reference, miner_hotkey=ALICE, code_sha256=CODE), submission=name), payment_reference=reference
    )
    events: list[Event] = [
        *([waiting] if number % 7 == 0 else []),
        msgspec.structs.replace(paid(name, uid=number % 256), payment=payment),
        requested(name, evaluation, competition=competition),
        started(name, evaluation),
    ]
    for index in runs:
        tps = 1000.0 + number * 37 % 101 + index
        events.append(completed(index, submission=name, evaluation=evaluation, tps=tps))
        events.append(verified(index, submission=name, evaluation=evaluation, failure=failure, tps=tps))
    if number % 10 == 1:
        events.append(disqualified(name))
    if number % 10 == 3:
        events.insert(-2, disqualified(name))
        events.append(reinstated(name))
    if number % 10 == 5:
        events += [disqualified(name), reinstated(name)]
    return events


def recorded(lives: Sequence[Sequence[Event]], *, at_once: int = 7) -> list[Recorded]:
    """The stream that these stories make, so many of them interleaved, with the changes of the leaderboard."""
    events, ranking = list[Recorded](), Ranking()
    waiting = [list(story) for story in lives]
    while waiting:
        for story in waiting[:at_once]:
            said = record(len(events) + 1, story.pop(0))
            events.append(said)
            for change in apply(ranking, said):
                events.append(record(len(events) + 1, change))
        waiting = [story for story in waiting if story]
    return events


async def publish(nats_url: str, stream: Sequence[Recorded]) -> None:
    """Append them all, fast: each after the one before, on disk when this returns."""
    client = await nats.connect(nats_url)
    for event in stream:
        await client.publish(event.subject, encode(event.envelope))
    await client.flush(timeout=int(DEADLINE_SECONDS))
    manager = client.jetstream()

    async def stored() -> bool:
        return (await manager.stream_info(STREAM)).state.last_seq >= stream[-1].sequence

    await eventually(stored)
    await client.close()


@contextlib.asynccontextmanager
async def looking(postgres_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(postgres_url)
    try:
        yield connection
    finally:
        await connection.close()


async def position(postgres_url: str) -> int:
    async with looking(postgres_url) as connection:
        found: int = await connection.fetchval("SELECT sequence FROM position")
    return found


async def reached(postgres_url: str, sequence: int) -> None:
    """Wait until the read model is at least there."""

    async def there() -> bool:
        return await position(postgres_url) >= sequence

    await eventually(there)


async def whole(postgres_url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the read model, in the order of its key."""
    async with looking(postgres_url) as connection:
        return {
            table: [tuple(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")]
            for table in TABLES
        }


async def cancelled(task: "asyncio.Task[None]") -> None:
    """End a task that goes on for ever; what else ended it is raised."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
