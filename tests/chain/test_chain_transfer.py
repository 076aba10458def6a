"""What a miner's payment asks of the chain and sends to it: on a real chain, and from a recording of that."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import bittensor
import pytest
from bittensor import calls

from neurons import transfer
from neurons.payment import NotPaid, Paid, Transfer
from shared.chain import Chain
from shared.faults import TransientFault
from shared.request import parse_transfer
from tests.support import chain as real
from tests.support.chain import COST_RAO, MINER, NETUID, RECIPIENT, Wallet
from tests.support.chain_stage import Scene, Stage, asking
from tests.support.servers import eventually

POOR = real.wallet("//NeverPaid", "//NeverPaid//hot")
"""Nobody ever gave it anything, and its hotkey is nobody's."""
TOO_MUCH_RAO = 10**17
"""More than the miner has."""
MOST_FEE_RAO = 10_000_000
DEADLINE_SECONDS = 120.0
BROADCAST = "author_submitExtrinsic"


async def nothing(client: bittensor.Client) -> None:
    """All is there."""


async def spend(client: bittensor.Client) -> None:
    """The miner's next transaction is another one."""
    await real.do(client, calls.System.remark(remark=b"first"), MINER)


@asynccontextmanager
async def playing(stage: Stage, name: str) -> AsyncIterator[tuple[Scene[None], Chain]]:
    async with stage.play(f"transfer-{name}", nothing) as scene, asking(scene.endpoint) as chain:
        yield scene, chain


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch, endpoint_of_chain: str | None) -> None:
    """Each look is recorded, and a real block takes a while."""
    monkeypatch.setattr(transfer, "LOOK_EVERY_SECONDS", 0.01 if endpoint_of_chain is None else 2.0)


async def standing(chain: Chain, who: Wallet = MINER, *, amount_rao: int = COST_RAO) -> transfer.Standing:
    return await transfer.standing(
        chain,
        coldkey=who.coldkey,
        miner_hotkey=who.hotkey_address,
        netuid=NETUID,
        recipient=RECIPIENT,
        amount_rao=amount_rao,
    )


async def sign(chain: Chain, who: Wallet = MINER, *, amount_rao: int = COST_RAO) -> Transfer:
    return await transfer.sign(chain, coldkey=who.coldkey, recipient=RECIPIENT, amount_rao=amount_rao)


async def settle(
    scene: Scene[None],
    chain: Chain,
    signed: Transfer,
    *,
    fresh: bool = True,
    meanwhile: Callable[[list[str]], Awaitable[None]] | None = None,
) -> Paid | NotPaid | None:
    """While the chain makes blocks. `meanwhile` gets what is reported."""
    said: list[str] = []
    settling = asyncio.create_task(
        transfer.settle(chain, signed, said.append, timeout_seconds=DEADLINE_SECONDS, fresh=fresh)
    )

    async def make_blocks(client: bittensor.Client) -> None:
        while not settling.done():
            await real.new_block(client)
            await asyncio.wait([settling], timeout=1.0)

    try:
        if meanwhile is not None:
            await meanwhile(said)
        await scene.happens(make_blocks)
        return await settling
    finally:
        settling.cancel()


async def test_paid(stage: Stage) -> None:
    async with playing(stage, "paid") as (scene, chain):
        before = await standing(chain)
        signed = await sign(chain)
        outcome = await settle(scene, chain, signed)
        again = await settle(scene, chain, signed, fresh=False)
        after = await standing(chain)
        genesis_hash = await transfer.genesis_hash(chain)
    assert (before.owner, before.uid) == (MINER.coldkey_address, 2)
    assert before.genesis_hash == genesis_hash
    assert before.free_rao > COST_RAO
    assert 0 < before.fee_rao < MOST_FEE_RAO
    assert signed.payer == MINER.coldkey_address
    assert isinstance(outcome, Paid), outcome
    assert parse_transfer(outcome.reference) is not None
    assert again == outcome
    assert COST_RAO < before.free_rao - after.free_rao < COST_RAO + MOST_FEE_RAO


async def test_more_than_there_is(stage: Stage) -> None:
    """Whoever sends it all the same finds it in a block, failed."""
    async with playing(stage, "failed") as (scene, chain):
        before = await standing(chain, amount_rao=TOO_MUCH_RAO)
        outcome = await settle(scene, chain, await sign(chain, amount_rao=TOO_MUCH_RAO))
        after = await standing(chain, amount_rao=TOO_MUCH_RAO)
    assert before.free_rao < TOO_MUCH_RAO
    assert isinstance(outcome, NotPaid), outcome
    assert "failed on the chain" in outcome.why
    assert 0 <= before.free_rao - after.free_rao < MOST_FEE_RAO


async def test_not_even_the_fee(stage: Stage) -> None:
    """The node does not take it."""
    async with playing(stage, "no-money") as (scene, chain):
        before = await standing(chain, POOR)
        outcome = await settle(scene, chain, await sign(chain, POOR))
    assert (before.owner, before.uid, before.free_rao) == (None, None, 0)
    assert before.fee_rao > 0
    assert isinstance(outcome, NotPaid), outcome
    assert "does not take the transfer" in outcome.why


async def test_another_transaction_in_its_place(stage: Stage) -> None:
    async with playing(stage, "overtaken") as (scene, chain):
        signed = await sign(chain)
        await scene.happens(spend)
        outcome = await settle(scene, chain, signed)
    assert isinstance(outcome, NotPaid), outcome
    assert "took the transfer's place" in outcome.why


async def test_an_endpoint_that_dies_when_it_has_taken_the_transfer(stage: Stage) -> None:
    """It is paid, and nobody says so: it is found, and not paid again."""
    async with playing(stage, "taken") as (scene, chain):
        before = await standing(chain)
        signed = await sign(chain)

        async def returns(said: list[str]) -> None:
            async def heard() -> bool:
                return any("asking again" in line for line in said)

            await eventually(heard)
            scene.endpoint.dies_at = None
            await scene.endpoint.start()

        scene.endpoint.dies_at = BROADCAST
        outcome = await settle(scene, chain, signed, meanwhile=returns)
        after = await standing(chain)
        await scene.endpoint.kill()
        with pytest.raises(TransientFault):
            await standing(chain)
    assert isinstance(outcome, Paid), outcome
    assert COST_RAO < before.free_rao - after.free_rao < COST_RAO + MOST_FEE_RAO
