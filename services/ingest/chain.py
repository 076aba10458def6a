"""Asks the chain about a payment and a hotkey. It judges nothing: `payment` does."""

import contextlib
from collections.abc import Mapping
from typing import Any, cast

import bittensor
import msgspec
from bittensor._substrate import RpcSubstrate
from bittensor._transport import SubstrateConnection
from bittensor.sp_core import ss58_encode

from services.ingest.payment import Facts, Transfer
from shared import ss58
from shared.chain import NO_ACCOUNT, Chain
from shared.faults import TransientFault
from shared.request import parse_transfer


async def facts(chain: Chain, *, reference: str, miner_hotkey: str, netuid: int) -> Facts:
    """What the chain says of this payment and this hotkey now.

    Raises:
        TransientFault: the node is away, has discarded the block's state, or said something that this code cannot read.
    """
    named = parse_transfer(reference)
    if named is None:
        raise ValueError(f"{reference} names no transfer")
    block_hash, index = named

    async def question(client: bittensor.Client) -> Facts:
        return await _facts(client, block_hash=block_hash, index=index, miner_hotkey=miner_hotkey, netuid=netuid)

    return await chain.ask(question)


async def genesis_hash(chain: Chain) -> str:
    """Which chain it is.

    Raises:
        TransientFault: the node is away.
    """

    async def question(client: bittensor.Client) -> str:
        return str(await client._substrate.block_hash(0))

    return await chain.ask(question)


async def uid_of(chain: Chain, *, miner_hotkey: str, netuid: int) -> int | None:
    """The hotkey's uid on the subnet at the finalized head; None when it is not registered.

    Raises:
        TransientFault: the node is away.
    """

    async def question(client: bittensor.Client) -> int | None:
        head, _ = await _finalized(client)
        return await _uid(client, miner_hotkey=miner_hotkey, netuid=netuid, block_hash=head)

    return await chain.ask(question)


async def _facts(client: bittensor.Client, *, block_hash: str, index: int, miner_hotkey: str, netuid: int) -> Facts:
    substrate = client._substrate
    # The finalized head first: the hash at a height that was final then is the same for ever.
    head, finalized_block = await _finalized(client)
    finalized_ms = await substrate.query("Timestamp", "Now", [], head)
    uid = await _uid(client, miner_hotkey=miner_hotkey, netuid=netuid, block_hash=head)
    block_number, canonical = await _place(client, block_hash, finalized_block=finalized_block)
    known = Facts(
        finalized_block=finalized_block,
        finalized_time_seconds=int(finalized_ms) / 1000,
        block_number=block_number,
        canonical=canonical,
        block_time_seconds=None,
        call=None,
        signer=None,
        successes=0,
        failures=0,
        transfers=(),
        owner=None,
        uid=uid,
    )
    if block_number is None or block_number > finalized_block or not canonical:
        return known  # nodes discard the state of a block that was left: who asked on would wait for ever
    block = await substrate.get_block(block_hash=block_hash)
    if block is None:
        raise TransientFault(f"the node has the header of block {block_hash}, but not its body")
    extrinsics: list[dict[str, Any] | None] = block["extrinsics"]
    known = msgspec.structs.replace(known, block_time_seconds=_time_seconds(extrinsics))
    if index >= len(extrinsics):
        return known
    extrinsic = extrinsics[index]
    if extrinsic is None:
        raise TransientFault(f"extrinsic {index} of block {block_hash} cannot be decoded; a newer SDK may do it")
    events = [event for event in await substrate.events(block_hash) if event["extrinsic_idx"] == index]
    names = [f"{event['module_id']}.{event['event_id']}" for event in events]
    owner = address(await substrate.query("SubtensorModule", "Owner", [miner_hotkey], block_hash))
    return msgspec.structs.replace(
        known,
        call=f"{extrinsic['call']['call_module']}.{extrinsic['call']['call_function']}",
        signer=None if extrinsic.get("address") is None else address(extrinsic["address"]),
        successes=names.count("System.ExtrinsicSuccess"),
        failures=names.count("System.ExtrinsicFailed"),
        transfers=tuple(
            transfer(event["attributes"])
            for name, event in zip(names, events, strict=True)
            if name == "Balances.Transfer"
        ),
        owner=None if owner == NO_ACCOUNT else owner,
    )


async def _finalized(client: bittensor.Client) -> tuple[str, int]:
    """Hash and height of the last final block."""
    raw = _transport(client)
    head = str(await raw.get_chain_finalised_head())
    return head, int(await raw.get_block_number(head))


async def _place(client: bittensor.Client, block_hash: str, *, finalized_block: int) -> tuple[int | None, bool]:
    """Height of a block, and whether it is the chain's block there. Not through the SDK's cache: that takes any block
    that it was asked for to be the one at its height.
    """
    raw = _transport(client)
    header = await raw.rpc_request("chain_getHeader", [block_hash])
    if header is None:
        return None, False
    number = int(header["number"], 16)
    if number == 0:
        return None, False  # development nodes answer an empty block 0 for one that they do not know; nobody pays in it
    there = await raw.rpc_request("chain_getBlockHash", [number])
    if there is None and number <= finalized_block:
        raise TransientFault(f"the node does not know the block at height {number}, but says that it is final")
    return number, there == block_hash


async def _uid(client: bittensor.Client, *, miner_hotkey: str, netuid: int, block_hash: str) -> int | None:
    uid = await client._substrate.query("SubtensorModule", "Uids", [netuid, miner_hotkey], block_hash)
    return None if uid is None else int(uid)


def _transport(client: bittensor.Client) -> SubstrateConnection:
    return cast("RpcSubstrate", client._substrate).raw


def _time_seconds(extrinsics: list[dict[str, Any] | None]) -> float | None:
    """What the block's own Timestamp.set says."""
    for extrinsic in extrinsics:
        if extrinsic is not None and extrinsic["call"]["call_module"] == "Timestamp":
            return int(extrinsic["call"]["call_args"][0]["value"]) / 1000
    return None


def transfer(attributes: Any) -> Transfer:
    """A Balances.Transfer event, its fields by name or, of older runtimes, in order.

    Raises:
        TransientFault: it has another shape.
    """
    try:
        if isinstance(attributes, Mapping):
            payer, recipient, amount = (attributes[name] for name in ("from", "to", "amount"))
        else:
            payer, recipient, amount = attributes
        return Transfer(payer=address(payer), recipient=address(recipient), amount_rao=int(amount))
    except (KeyError, TypeError, ValueError) as error:
        raise TransientFault(f"cannot read the chain's Transfer event {attributes!r}: {error!r}") from error


def address(said: Any) -> str:
    """An account as its one SS58 text. Releases of the SDK say it as that, as hex, as bytes, and wrapped by its kind.

    Raises:
        TransientFault: it has another shape. Money is not refused because we cannot read.
    """
    if isinstance(said, Mapping) and len(said) == 1 and (kind := next(iter(said))) in ("Id", "Address32"):
        return address(said[kind])
    if isinstance(said, str) and said.startswith("0x"):
        with contextlib.suppress(ValueError):
            said = bytes.fromhex(said[2:])
    if isinstance(said, list | tuple) and len(said) == 1 and not isinstance(said[0], int):
        return address(said[0])
    if isinstance(said, list | tuple):
        with contextlib.suppress(ValueError, TypeError):
            said = bytes(said)
    if isinstance(said, bytes | bytearray) and len(said) == ss58.KEY_BYTES:
        return str(ss58_encode(bytes(said)))
    if isinstance(said, str):
        with contextlib.suppress(ss58.InvalidAddress):
            _, key = ss58.decode(said)
            return str(ss58_encode(key))
    raise TransientFault(f"cannot read the chain's account {said!r}; a newer SDK may say it in another shape")
