"""The ingest service as a program, as it is or with a chain that a test makes up, and what it wrote."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from deploy.local.program import free_port
from shared import subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import Event
from tests.support.paid_ingest import RECIPIENT, World
from tests.support.servers import eventually

T = TypeVar("T", bound=Event)
PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "hparams" / "demo.json"
REQUEST_SECONDS = 60.0


async def events(connection: Bus, kind: type[T]) -> list[T]:
    return [recorded.event for recorded in await connection.load(subjects.ALL) if isinstance(recorded.event, kind)]


def some(connection: Bus, kind: type[T], count: int = 1) -> Callable[[], Awaitable[list[T] | None]]:
    """For `eventually`: the events of one kind once there are so many."""

    async def found() -> list[T] | None:
        all_of_them = await events(connection, kind)
        return all_of_them if len(all_of_them) >= count else None

    return found


@contextlib.contextmanager
def ingest_running(nats_url: str, artifacts: ArtifactStore, log: Path, **settings: str) -> Iterator[str]:
    """The service as it is, under the demo's hparams; its address. It ends in order when it is told to."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.ingest.main"],
            cwd=PROJECT,
            env={
                "PATH": os.environ["PATH"],
                "TOURNAMENT_NATS_URL": nats_url,
                "TOURNAMENT_ARTIFACTS_DIR": str(artifacts.root),
                "TOURNAMENT_HPARAMS": str(DEMO),
                "TOURNAMENT_INGEST_PORT": str(port),
                **settings,
            },
            stderr=output,
        )
    try:
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(30.0) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


class Process:
    """The service as a program, whose chain is a file, and which may kill itself at a point that is named."""

    def __init__(self, nats_url: str, artifacts: ArtifactStore, world: World | None, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.world = artifacts.root.with_name("world.json")
        if world is not None:
            self.tell(world)
        self.log = artifacts.root.with_name(f"ingest-{self.port}.log")
        environ = {
            "PATH": os.environ["PATH"],
            "TOURNAMENT_NATS_URL": nats_url,
            "TOURNAMENT_ARTIFACTS_DIR": str(artifacts.root),
            "TOURNAMENT_HPARAMS": str(DEMO),
            "TOURNAMENT_INGEST_PORT": str(self.port),
            "TOURNAMENT_CHAIN_ENDPOINT": "ws://127.0.0.1:9",
            "TOURNAMENT_PAYMENT_RECIPIENT": RECIPIENT,
            "CHAIN_WORLD": str(self.world),
            **settings,
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", settings.get("MODULE", "tests.support.paid_ingest")],
                cwd=PROJECT,
                env=environ,
                stderr=output,
            )

    def tell(self, world: World) -> None:
        """Change what the chain says."""
        beside = self.world.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(world))
        beside.rename(self.world)

    async def ready(self, client: httpx.AsyncClient) -> None:
        async def healthy() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(f"{self.url}/health")).status_code == 200
            return False

        await eventually(healthy)

    async def killed(self) -> None:
        assert await asyncio.to_thread(self.process.wait, REQUEST_SECONDS) == -9, self.log.read_text()
