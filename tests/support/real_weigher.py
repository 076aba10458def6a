"""The weights service's way to a chain, with a wallet on disk, as the service opens it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import bittensor
from bittensor import calls

from services.weights.chain import ChainWeigher
from services.weights.settings import ChainSettings, open_wallet
from shared.chain import Chain
from tests.support.chain import NETUID, VALIDATOR, Wallet, sudo


def keep(folder: Path, who: Wallet) -> ChainSettings:
    """The wallet's files, as bittensor writes them."""
    wallet = bittensor.Wallet("w", "h", str(folder))
    wallet.hotkey_file.set_keypair(who.hotkey, encrypt=False, overwrite=True)
    return ChainSettings(endpoint="", wallet_name="w", wallet_hotkey="h", wallet_path=folder)


@contextlib.asynccontextmanager
async def weighing(endpoint: str, folder: Path, who: Wallet = VALIDATOR) -> AsyncIterator[ChainWeigher]:
    chain = Chain(endpoint)
    try:
        yield ChainWeigher(chain, open_wallet(keep(folder, who)), netuid=NETUID)
    finally:
        await chain.close()


async def limit(client: bittensor.Client, blocks: int) -> None:
    if await client.query(("SubtensorModule", "WeightsSetRateLimit"), [NETUID]) != blocks:
        await sudo(
            client, calls.AdminUtils.sudo_set_weights_set_rate_limit(netuid=NETUID, weights_set_rate_limit=blocks)
        )
