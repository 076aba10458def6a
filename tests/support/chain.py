"""A real chain for tests. Its address comes from the environment; it is set up once: subnet 3 with a validator and a
miner. Any number of tests, and of test runs, can share one chain: each leaves it usable by the next. So no test asks
the node itself for a block that it does not know: a development node takes such a hash for its genesis from then on,
and every signature after that is wrong. `recorded_chain.Recorder` answers for it.

It makes blocks by itself, one a second or so, because services wait for finality, which may lag; a chain without lag
skips what only lag can show. Blocks, forks and permits are made with the `dev_` methods that development nodes have.
Without TOURNAMENT_CHAIN_ENDPOINT these tests are left out.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import bittensor
import pytest
from bittensor import calls
from bittensor._substrate import RpcSubstrate
from bittensor._transport import SubstrateConnection
from bittensor._transport.contract import CallBytes
from bittensor.result import ExtrinsicResult
from bittensor.sp_core import Keypair

from shared.request import transfer_reference

ENDPOINT_VARIABLE = "TOURNAMENT_CHAIN_ENDPOINT"
ENDPOINT = os.environ.get(ENDPOINT_VARIABLE)
NETUID = 3
COST_RAO = 100_000_000
MAX_BLOCKS = 200
"""How many blocks a test makes at most while it waits for something."""


@dataclass(frozen=True)
class Wallet:
    """A coldkey and a hotkey, as the SDK wants them. The keys are the well-known ones of development chains."""

    coldkey: Keypair
    hotkey: Keypair

    @property
    def coldkeypub(self) -> Keypair:
        return self.coldkey

    @property
    def coldkey_address(self) -> str:
        return str(self.coldkey.ss58_address)

    @property
    def hotkey_address(self) -> str:
        return str(self.hotkey.ss58_address)


def wallet(coldkey: str, hotkey: str) -> Wallet:
    """From two derivation paths, such as //Bob and //Bob//hot."""
    return Wallet(Keypair.create_from_uri(coldkey), Keypair.create_from_uri(hotkey))


def keep_wallet(folder: Path, name: str, who: Wallet) -> tuple[str, ...]:
    """Write a wallet as bittensor keeps it, without a password; the flags that name it."""
    kept = bittensor.Wallet(name, "hot", str(folder))
    kept.coldkey_file.set_keypair(who.coldkey, encrypt=False)
    kept.coldkeypub_file.set_keypair(who.coldkey, encrypt=False)
    kept.hotkey_file.set_keypair(who.hotkey, encrypt=False)
    return ("--wallet.name", name, "--wallet.hotkey", "hot", "--wallet.path", str(folder))


VALIDATOR = wallet("//Alice", "//Alice//hot")
"""uid 1 of the subnet, with a permit. Its coldkey is the chain's sudo key, and takes the payments."""
MINER = wallet("//Bob", "//Bob//hot")
"""uid 2 of the subnet."""
OWNER = wallet("//Alice", "//Owner1")
"""uid 0 of the subnet."""
RECIPIENT = VALIDATOR.coldkey_address


@pytest.fixture(scope="session")
def chain_endpoint() -> str:
    """Address of a node whose chain is set up."""
    if not ENDPOINT:
        pytest.skip(f"no chain: {ENDPOINT_VARIABLE} is not set")
    asyncio.run(bootstrap(ENDPOINT))
    return ENDPOINT


@pytest.fixture
async def client(chain_endpoint: str) -> AsyncIterator[bittensor.Client]:
    """A connection to it, to make transactions and blocks with."""
    async with bittensor.Client(chain_endpoint) as connected:
        yield connected


async def bootstrap(endpoint: str) -> None:
    """Make subnet 3 and register who is missing on it."""
    async with bittensor.Client(endpoint) as client:
        if await client.query(("SubtensorModule", "NetworksAdded"), [NETUID]) is not True:
            await sudo(client, calls.AdminUtils.sudo_set_network_rate_limit(rate_limit=0))
            for number in range(2):
                owner = Keypair.create_from_uri(f"//Owner{number}")
                await do(client, calls.SubtensorModule.register_network(hotkey=owner.ss58_address), VALIDATOR)
            await sudo(client, calls.AdminUtils.sudo_set_tempo(netuid=NETUID, tempo=360))
            await sudo(
                client, calls.AdminUtils.sudo_set_weights_set_rate_limit(netuid=NETUID, weights_set_rate_limit=0)
            )
            # Three times this many can register in 360 blocks; a new subnet lets three in.
            await sudo(
                client,
                calls.AdminUtils.sudo_set_target_registrations_per_interval(
                    netuid=NETUID, target_registrations_per_interval=1000
                ),
            )
        for who in (VALIDATOR, MINER):
            await register(client, who)
        await permit(client)
        await finalize(client)


async def register(client: bittensor.Client, who: Wallet) -> int:
    """The hotkey's uid on the subnet; it is registered if it is not."""
    uid = await uid_of(client, who)
    if uid is None:
        await do(client, calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=who.hotkey_address), who)
        uid = await uid_of(client, who)
    assert uid is not None
    return uid


async def uid_of(client: bittensor.Client, who: Wallet) -> int | None:
    """The hotkey's uid at the chain's head."""
    uid = await client.query(("SubtensorModule", "Uids"), [NETUID, who.hotkey_address])
    return None if uid is None else int(uid)


async def permit(client: bittensor.Client) -> None:
    """Let the validator set weights for others, until the subnet's next epoch: nobody has staked anything."""
    uid = await uid_of(client, VALIDATOR)
    permits = await client.query(("SubtensorModule", "ValidatorPermit"), [NETUID])
    if not permits[uid]:
        permits = [number == uid or permitted for number, permitted in enumerate(permits)]
        await transport(client).rpc_request(
            "dev_setStorage", [{"SubtensorModule": {"validatorPermit": [[[NETUID], permits]]}}]
        )
        assert (await client.query(("SubtensorModule", "ValidatorPermit"), [NETUID]))[uid]


async def do(client: bittensor.Client, call: Any, who: Wallet, **options: Any) -> ExtrinsicResult:
    """Sign and send a call, see that it succeeded, and that its block is final."""
    result = (await client.submit_call(call, who, **options)).raise_for_failure()
    await finalize(client)
    return result


async def sudo(client: bittensor.Client, call: Any) -> ExtrinsicResult:
    """The same, as root. The call may be composed already."""
    composed = call if isinstance(call, CallBytes) else await compose(client, call)
    return await do(client, calls.Sudo.sudo(call=composed), VALIDATOR)


async def compose(client: bittensor.Client, call: Any) -> CallBytes:
    """A call to put inside of another."""
    composed: CallBytes = await client.compose(call)  # type: ignore[no-untyped-call]
    return composed


async def pay(
    client: bittensor.Client,
    who: Wallet = MINER,
    *,
    amount_rao: int = COST_RAO,
    recipient: str = RECIPIENT,
    final: bool = True,
) -> str:
    """Pay with a transfer that keeps the account alive; the payment's reference."""
    call = calls.Balances.transfer_keep_alive(dest=recipient, value=amount_rao)
    result = (await client.submit_call(call, who)).raise_for_failure()
    if final:
        await finalize(client)
    return reference(result)


def reference(result: ExtrinsicResult) -> str:
    """Of an extrinsic that was included in a block, whether it succeeded or failed."""
    assert result.block_hash is not None
    assert result.extrinsic_id is not None
    return transfer_reference(result.block_hash, int(result.extrinsic_id.split("-")[1]))


async def new_block(client: bittensor.Client) -> str:
    """Make one block; its hash."""
    return str(await transport(client).rpc_request("dev_newBlock", [{}]))


async def finalize(client: bittensor.Client) -> None:
    """Make blocks until the one that is the head now is final."""
    height = await client.block()
    for _ in range(MAX_BLOCKS):
        if await client.finalized_block() >= height:
            return
        await new_block(client)
    raise AssertionError(f"block {height} is not final after {MAX_BLOCKS} more")


async def leave(client: bittensor.Client, block_hash: str) -> None:
    """Let the chain go on from this block, and leave what was built on it."""
    await transport(client).rpc_request("dev_setHead", [block_hash])


def transport(client: bittensor.Client) -> SubstrateConnection:
    """JSON-RPC without the SDK's caches."""
    return cast("RpcSubstrate", client._substrate).raw
