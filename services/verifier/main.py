"""Composition root of the verifier: opens the bus and the artifact store, judges and ranks until told to stop."""

import asyncio
import functools
import os

from services.verifier import handlers
from services.verifier.settings import from_environment
from shared import bus, process, streams
from shared.artifacts import ArtifactStore


async def main() -> None:
    settings = from_environment(os.environ)
    artifacts = ArtifactStore(settings.artifacts)
    async with bus.connect(settings.nats_url, producer="verifier") as connection, asyncio.TaskGroup() as tasks:
        verify = functools.partial(handlers.verify, connection, artifacts)
        give_up = functools.partial(handlers.give_up, connection)
        tasks.create_task(connection.consume(streams.JUDGE, verify, slots=settings.slots, give_up=give_up))
        tasks.create_task(handlers.rank(connection))


if __name__ == "__main__":
    raise SystemExit(process.run("verifier", main))
