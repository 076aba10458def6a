"""Composition root of the weights service: opens the bus and, with one, the chain, and sets or records every interval
until told to stop.
"""

import os
import secrets

from services.weights import handlers
from services.weights.chain import ChainWeigher
from services.weights.settings import from_environment, open_wallet
from shared import bus, hparams, process
from shared.chain import Chain
from shared.clock import utc_now


async def main() -> None:
    settings = from_environment(os.environ)
    competition = hparams.load(settings.hparams)
    if settings.chain is None:
        async with bus.connect(settings.nats_url, producer="weights") as connection:
            await handlers.every_interval(connection, competition, settings.burn_hotkey, utc_now)
        return
    weigher = ChainWeigher(
        chain := Chain(settings.chain.endpoint), open_wallet(settings.chain), netuid=competition.economy.netuid
    )
    try:
        async with bus.connect(settings.nats_url, producer="weights") as connection:
            await handlers.every_interval_on_chain(
                connection,
                competition,
                settings.burn_hotkey,
                utc_now,
                weigher=weigher,
                instance=secrets.token_hex(8),
            )
    finally:
        await chain.close()


if __name__ == "__main__":
    raise SystemExit(process.run("weights", main))
