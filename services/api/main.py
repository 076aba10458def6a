"""Composition root of the API: takes its port, then projects the stream and answers requests until told to stop.

Neither server has to be there at the start: requests are answered, with 503 where there is nothing to answer from.
"""

import asyncio
import os
from contextlib import AsyncExitStack, closing

from services.api import database, handlers, http
from services.api.handlers import Progress
from services.api.settings import from_environment
from shared import bus, hparams, process
from shared.http import listen, serve


async def main() -> None:
    settings = from_environment(os.environ)
    with closing(listen(settings.host, settings.port, setting="TOURNAMENT_API_PORT")) as listener:
        competition = hparams.load(settings.hparams).sha256
        progress = Progress()
        # The bus is opened while requests are answered already, and outlives a projection that has to stop.
        async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
            pool = await resources.enter_async_context(database.readers(settings.postgres_url))
            tasks.create_task(serve(http.create(pool, progress, competition=competition), listener))
            connection = await resources.enter_async_context(bus.connect(settings.nats_url, producer="api"))
            tasks.create_task(handlers.follow(connection, settings.postgres_url, progress))


if __name__ == "__main__":
    raise SystemExit(process.run("api", main))
