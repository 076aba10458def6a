"""Composition root of the API: binds its port, then projects the stream and answers requests until told to stop.

Neither server has to be there at the start: requests are answered, with 503 where there is nothing to answer from.
"""

import asyncio
import os

from services.api import database, handlers, routes
from services.api.handlers import Progress
from services.api.settings import Settings, from_environment
from shared import bus, hparams, http, process


async def main() -> None:
    settings = from_environment(os.environ)
    competition = hparams.load(settings.hparams).sha256
    listener = http.listen(settings.host, settings.port, setting="TOURNAMENT_API_PORT")
    progress = Progress()
    async with database.readers(settings.postgres_url) as pool, asyncio.TaskGroup() as tasks:
        tasks.create_task(http.serve(routes.create(pool, progress, competition=competition), listener))
        tasks.create_task(_project(settings, progress))


async def _project(settings: Settings, progress: Progress) -> None:
    async with bus.connect(settings.nats_url, producer="api") as connection:
        await handlers.follow(connection, settings.postgres_url, progress)


if __name__ == "__main__":
    raise SystemExit(process.run("api", main))
