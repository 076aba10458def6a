"""Asks the chain about weights and sends them, signed by the validator's hotkey. It decides nothing: `decide` does."""

from collections.abc import Sequence
from typing import Any, Protocol

import bittensor
from bittensor import calls
from bittensor._transport.errors import StorageFunctionNotFound
from bittensor.error_map import ErrorCode
from bittensor.result import ChainError, ExtrinsicResult

from services.weights.decide import ERA_BLOCKS, FULL_WEIGHT, Answer, ChainView
from shared.chain import Chain
from shared.faults import TransientFault
from shared.request import transfer_reference

SEND_SECONDS = 110.0
"""Longer than a transaction is valid, shorter than the grace of an attempt."""
REFUSED_BEFORE_SENDING = (
    ErrorCode.RATE_LIMITED,
    ErrorCode.NOT_REGISTERED,
    ErrorCode.NOT_AUTHORIZED,
    ErrorCode.INVALID_ARGUMENT,
)
"""What the SDK finds out itself before it signs anything."""


class Weigher(Protocol):
    """The chain, as far as weights need it."""

    validator_hotkey: str

    async def view(self, hotkeys: Sequence[str]) -> ChainView:
        """What it says now, and the uids of these hotkeys. Raises TransientFault when it cannot be asked."""

    async def send(self, uid: int) -> Answer:
        """Give everything to one uid; returns when that is final. Raises TransientFault when it is not known whether
        it arrived.
        """


class ChainWeigher:
    """A real one."""

    def __init__(self, chain: Chain, wallet: bittensor.Wallet, *, netuid: int) -> None:
        self._chain = chain
        self._wallet = wallet
        self._netuid = netuid
        self.validator_hotkey = str(wallet.hotkey.ss58_address)

    async def view(self, hotkeys: Sequence[str]) -> ChainView:
        """All read at the last final block."""

        async def question(client: bittensor.Client) -> ChainView:
            return await self._view(client, hotkeys)

        return await self._chain.ask(question)

    async def send(self, uid: int) -> Answer:
        """By the SDK's intent where the runtime is new enough for it, which commits where the subnet wants that; by
        the plain call where not.
        """

        async def question(client: bittensor.Client) -> Answer:
            return await self._send(client, uid)

        return await self._chain.ask(question, timeout_seconds=SEND_SECONDS)

    async def _view(self, client: bittensor.Client, hotkeys: Sequence[str]) -> ChainView:
        block = await client.finalized_block()
        at = await client._substrate.block_hash(block)

        async def ask(item: str, *keys: Any) -> Any:
            return await client._substrate.query("SubtensorModule", item, list(keys), at)

        netuid = self._netuid
        uid = await ask("Uids", netuid, self.validator_hotkey)
        permits, updates = await ask("ValidatorPermit", netuid), await ask("LastUpdate", netuid)
        uids = {hotkey: await ask("Uids", netuid, hotkey) for hotkey in hotkeys}
        return ChainView(
            block=block,
            validator_hotkey=self.validator_hotkey,
            validator_uid=None if uid is None else int(uid),
            permitted=uid is not None and uid < len(permits) and bool(permits[uid]),
            last_update=0 if uid is None or uid >= len(updates) else int(updates[uid]),
            row=() if uid is None else _row(await ask("Weights", netuid, uid)),
            rate_limit_blocks=int(await ask("WeightsSetRateLimit", netuid) or 0),
            commit_reveal=bool(await ask("CommitRevealWeightsEnabled", netuid)),
            can_commit=await _has_intent(client, netuid),
            uids={hotkey: int(found) for hotkey, found in uids.items() if found is not None},
        )

    async def _send(self, client: bittensor.Client, uid: int) -> Answer:
        netuid, substrate = self._netuid, client._substrate
        version_key = int(await substrate.query("SubtensorModule", "WeightsVersionKey", [netuid]) or 0)
        committed = False
        if await _has_intent(client, netuid):
            committed = bool(await substrate.query("SubtensorModule", "CommitRevealWeightsEnabled", [netuid]))
            intent = bittensor.SetWeights(netuid=netuid, weights={uid: 1.0}, version_key=version_key)
            try:
                result = await client.execute(intent, self._wallet, period=ERA_BLOCKS, wait_for_finalization=True)
            except ChainError as error:
                if error.code in REFUSED_BEFORE_SENDING:
                    return Answer(success=False, message=str(error))
                raise
        else:
            call = calls.SubtensorModule.set_weights(
                netuid=netuid, dests=[uid], weights=[FULL_WEIGHT], version_key=version_key
            )
            result = await client.submit_call(
                call, self._wallet, signer="hotkey", period=ERA_BLOCKS, wait_for_finalization=True
            )
        return await self._answer(client, result, uid, committed=committed)

    async def _answer(self, client: bittensor.Client, result: ExtrinsicResult, uid: int, *, committed: bool) -> Answer:
        if result.block_hash is None or result.extrinsic_id is None:
            # Refused, or lost on the way: the SDK does not tell them apart, and one of them may still arrive.
            raise TransientFault(f"the chain did not take the weights: {result.message}")
        at, query = result.block_hash, client._substrate.query
        number, index = (int(part) for part in result.extrinsic_id.split("-"))
        own = await query("SubtensorModule", "Uids", [self._netuid, self.validator_hotkey], at)
        holder = await query("SubtensorModule", "Keys", [self._netuid, uid], at)
        return Answer(
            success=result.success,
            message=" ".join(str(result.message).split()),
            committed=committed,
            block_number=number,
            extrinsic=transfer_reference(at, index),
            row=() if own is None else _row(await query("SubtensorModule", "Weights", [self._netuid, own], at)),
            holder=None if holder is None else str(holder),
        )


async def _has_intent(client: bittensor.Client, netuid: int) -> bool:
    """Whether the runtime has what the SDK's own way of setting weights reads."""
    try:
        await client._substrate.query("SubtensorModule", "SubnetEpochConsensus", [netuid])
    except StorageFunctionNotFound:
        return False
    return True


def _row(said: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(uid), int(weight)) for uid, weight in said or ())
