"""Composition root of the ingest service: takes its port, then answers miners and requests evaluations until told to
stop.
"""

import asyncio
import functools
import os
from contextlib import AsyncExitStack, closing

from services.ingest import handlers, http
from services.ingest.check import SourceCheck
from services.ingest.settings import from_environment
from shared import bus, hparams, process, streams
from shared.artifacts import ArtifactStore
from shared.environment import SettingsError
from shared.faults import TransientFault
from shared.http import listen, serve

SLOTS = 4
"""Evaluations that are requested at the same time."""


async def main() -> None:
    settings = from_environment(os.environ)
    with closing(listen(settings.host, settings.port, setting="TOURNAMENT_INGEST_PORT")) as listener:
        competition = hparams.load(settings.hparams)
        artifacts = ArtifactStore(settings.artifacts)
        try:
            artifacts.put(competition.encode())  # before the first event that names it
        except TransientFault as fault:
            raise SettingsError(f"TOURNAMENT_ARTIFACTS_DIR cannot be used: {fault}") from None
        check = SourceCheck(max_bytes=competition.max_code_bytes)
        reached = asyncio.get_running_loop().create_future()
        ingest = http.Ingest(
            bus=reached,
            artifacts=artifacts,
            check=check,
            max_code_bytes=competition.max_code_bytes,
            api_url=settings.api_url,
        )
        # The bus is opened while requests are answered already, and closed when the last of them was.
        async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
            resources.push_async_callback(check.close)
            tasks.create_task(serve(http.create(ingest), listener))
            connection = await resources.enter_async_context(bus.connect(settings.nats_url, producer="ingest"))
            reached.set_result(connection)
            request = functools.partial(handlers.request_evaluation, connection, competition)
            give_up = functools.partial(handlers.give_up, connection, competition)
            tasks.create_task(connection.consume(streams.REQUEST_EVALUATIONS, request, slots=SLOTS, give_up=give_up))


if __name__ == "__main__":
    raise SystemExit(process.run("ingest", main))
