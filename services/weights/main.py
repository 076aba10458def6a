"""Composition root of the weights service: opens the bus and records every interval until told to stop."""

import os

from services.weights import handlers
from services.weights.settings import from_environment
from shared import bus, hparams, process
from shared.clock import utc_now


async def main() -> None:
    settings = from_environment(os.environ)
    competition = hparams.load(settings.hparams)
    async with bus.connect(settings.nats_url, producer="weights") as connection:
        await handlers.every_interval(connection, competition, settings.burn_hotkey, utc_now)


if __name__ == "__main__":
    raise SystemExit(process.run("weights", main))
