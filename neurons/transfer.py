"""A miner's way to the chain: what it must know before paying, a transfer signed without being sent, and its fate."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import bittensor
import msgspec
from bittensor import calls
from bittensor._substrate import RpcSubstrate
from bittensor._transport.contract import SignedExtrinsic

from neurons import payment
from neurons.payment import Found, NotPaid, Paid, Sighting, Transfer
from shared.chain import NO_ACCOUNT, Chain
from shared.faults import TransientFault

LOOK_EVERY_SECONDS = 2.0
LOOK_SECONDS = 300.0
"""For all blocks of an era, from a distant node."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain says of a miner now."""

    genesis_hash: str
    owner: str | None
    """Coldkey that owns the hotkey; None when the chain has never seen it."""
    uid: int | None
    """Of the hotkey on the subnet."""
    free_rao: int
    """What the coldkey can pay with and still exist."""
    fee_rao: int
    """Of the transfer."""


async def standing(
    chain: Chain, *, coldkey: Any, miner_hotkey: str, netuid: int, recipient: str, amount_rao: int
) -> Standing:
    """Ask all that can fail a payment. `coldkey` signs nothing here.

    Raises:
        TransientFault: the chain does not answer.
    """

    async def ask(client: bittensor.Client) -> Standing:
        chain_access = _access(client)
        account = await chain_access.query("System", "Account", [coldkey.ss58_address])
        least = int(await chain_access.constant("Balances", "ExistentialDeposit"))
        data = account["data"]
        call = await _call(chain_access, recipient, amount_rao)
        uid = await chain_access.query("SubtensorModule", "Uids", [netuid, miner_hotkey])
        owner = str(await chain_access.query("SubtensorModule", "Owner", [miner_hotkey]))
        return Standing(
            genesis_hash=await chain_access._read(lambda raw: raw.genesis_hash()),
            owner=None if owner == NO_ACCOUNT else owner,
            uid=None if uid is None else int(uid),
            free_rao=max(0, int(data["free"]) - max(int(data["frozen"]), least)),
            fee_rao=int((await chain_access.estimate_fee(call, coldkey)).rao),
        )

    return await chain.ask(ask)


async def genesis_hash(chain: Chain) -> str:
    """Which chain this is.

    Raises:
        TransientFault: the chain does not answer.
    """

    async def ask(client: bittensor.Client) -> str:
        return await _access(client)._read(lambda raw: raw.genesis_hash())

    return await chain.ask(ask)


async def sign(chain: Chain, *, coldkey: Any, recipient: str, amount_rao: int) -> Transfer:
    """A transfer that keeps the payer alive, signed and not sent.

    Raises:
        TransientFault: the chain does not answer.
    """

    async def ask(client: bittensor.Client) -> Transfer:
        chain_access = _access(client)
        first_block = await chain_access.finalized_block_number()
        call = await _call(chain_access, recipient, amount_rao)
        nonce = await _next_nonce(chain_access, coldkey.ss58_address)
        extrinsic, extrinsic_hash = await chain_access.sign_extrinsic(
            call, coldkey, nonce=nonce, period=payment.ERA_BLOCKS
        )
        return Transfer(
            extrinsic=bytes(extrinsic),
            extrinsic_hash=extrinsic_hash,
            payer=coldkey.ss58_address,
            nonce=nonce,
            first_block=first_block,
            # The era is counted from a final block that was read while signing, so no later than this one.
            last_block=await chain_access.finalized_block_number() + payment.ERA_BLOCKS + payment.SLACK_BLOCKS,
        )

    return await chain.ask(ask)


async def settle(
    chain: Chain, transfer: Transfer, report: Callable[[str], None], *, timeout_seconds: float, fresh: bool
) -> Paid | NotPaid | None:
    """Bring a signed transfer to its end: send it, and look until it is final. None: not known in time.

    It can be called again at any time, in any process. `fresh`: no process has sent it before, so a node that does
    not take it has the last word. Otherwise another node may have taken it.
    """
    deadline = time.monotonic() + timeout_seconds
    searched_to, said = transfer.first_block - 1, ""
    sent_at: float | None = None
    rejected: str | None = None
    while time.monotonic() < deadline:
        try:
            seen = await look(chain, transfer, searched_to=searched_to)
            searched_to = seen.searched_to
            since = None if sent_at is None else time.monotonic() - sent_at
            step = payment.next_step(transfer, seen, rejected=rejected, since_broadcast_seconds=since)
            if isinstance(step, Paid | NotPaid):
                return step
            if isinstance(step, payment.Broadcast):
                first, sent_at = fresh and sent_at is None, time.monotonic()
                said_no = await broadcast(chain, transfer)
                rejected = said_no if first else None
            line = f"final block {seen.searched_to:,}: waiting for the transfer, until block {transfer.last_block:,}"
        except TransientFault as fault:
            line = f"{fault}; asking again"
        if line != said:
            report(line)
        said = line
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    return None


async def look(chain: Chain, transfer: Transfer, *, searched_to: int) -> Sighting:
    """Search the final blocks after `searched_to` for the transfer.

    Raises:
        TransientFault: the chain does not answer.
    """

    async def ask(client: bittensor.Client) -> Sighting:
        chain_access = _access(client)
        final = await chain_access.finalized_block_number()
        found: Found | None = None
        last = min(final, transfer.last_block)
        for number in range(searched_to + 1, last + 1):
            found = await _find(chain_access, transfer.extrinsic_hash, await chain_access.block_hash(number))
            if found is not None:
                break
        account = await chain_access.query(
            "System", "Account", [transfer.payer], block_hash=await chain_access.block_hash(final)
        )
        next_nonce = await _next_nonce(chain_access, transfer.payer)
        return Sighting(
            found=found,
            searched_to=max(last, searched_to),
            final_nonce=int(account["nonce"]),
            next_nonce=next_nonce,
        )

    return await chain.ask(ask, timeout_seconds=LOOK_SECONDS)


async def broadcast(chain: Chain, transfer: Transfer) -> str | None:
    """Send the bytes. Returns what the node said when it would not take them.

    Raises:
        TransientFault: no answer. They may have arrived.
    """

    async def ask(client: bittensor.Client) -> str | None:
        signed = SignedExtrinsic(data=transfer.extrinsic, extrinsic_hash=transfer.extrinsic_hash)
        result = await _access(client).submit_signed(
            signed, _Address(transfer.payer), wait_for_inclusion=False, wait_for_finalization=False
        )
        return None if result.success else str(result.message)

    return await chain.ask(ask)


def _access(client: bittensor.Client) -> RpcSubstrate:
    """The SDK's own access to a chain, whose errors are the SDK's."""
    assert isinstance(client._substrate, RpcSubstrate)
    return client._substrate


async def _call(chain_access: RpcSubstrate, recipient: str, amount_rao: int) -> Any:
    compose: Any = chain_access.compose
    return await compose(calls.Balances.transfer_keep_alive(dest=recipient, value=amount_rao))


async def _next_nonce(chain_access: RpcSubstrate, address: str) -> int:
    return int(await chain_access._read(lambda raw: raw.get_account_next_index(address, use_cache=False)))


class _Address:
    """All that submitting signed bytes wants of a key."""

    def __init__(self, ss58_address: str) -> None:
        self.ss58_address = ss58_address


async def _find(chain_access: RpcSubstrate, extrinsic_hash: str, block_hash: str) -> Found | None:
    """Events are asked for only where it is: a node may have forgotten the state of the other blocks."""
    answer = await chain_access._read(lambda raw: raw.rpc_request("chain_getBlock", [block_hash]))
    if answer is None:
        raise TransientFault(f"the node has forgotten block {block_hash}; try an archive node with --chain")
    for index, extrinsic in enumerate(answer["block"]["extrinsics"]):
        data = bytes.fromhex(extrinsic.removeprefix("0x"))
        if f"0x{hashlib.blake2b(data, digest_size=32).hexdigest()}" == extrinsic_hash:
            events = await chain_access.events(block_hash)
            return Found(block_hash=block_hash, index=index, succeeded=payment.succeeded(events, index))
    return None
