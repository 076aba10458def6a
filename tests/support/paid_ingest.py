"""The ingest service with a chain that a test makes up: as a program of its own, too, which can be killed at a point
that is named. `python -m tests.support.paid_ingest` runs the real main; only its questions to the chain are answered
from a file.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from bittensor.sp_core import Keypair

from services.ingest import chain as chain_questions
from services.ingest import main
from services.ingest.payment import Facts, Transfer
from shared import process
from shared.bus import Bus
from shared.chain import Chain
from shared.events import Event, Recorded, SignedRequest
from shared.faults import TransientFault
from shared.request import message

RECIPIENT = Keypair.create_from_uri("//Alice").ss58_address
COLDKEY = Keypair.create_from_uri("//Bob").ss58_address
MINER = Keypair.create_from_uri("//Bob//hot")
OTHER = Keypair.create_from_uri("//Bob//cold feet")
"""A second hotkey of the same coldkey."""
STRANGER = Keypair.create_from_uri("//Charlie//hot")
GENESIS = f"0x{'9' * 64}"
NETUID = 3


def facts(*, block_time: float, amount: int = 100_000_000, **changes: Any) -> Facts:
    """Of a payment with which nothing is wrong, but for the changes."""
    fields: dict[str, Any] = {
        "finalized_block": 100,
        "block_number": 90,
        "canonical": True,
        "block_time_seconds": block_time,
        "call": "Balances.transfer_keep_alive",
        "signer": COLDKEY,
        "successes": 1,
        "failures": 0,
        "transfers": (Transfer(payer=COLDKEY, recipient=RECIPIENT, amount_rao=amount),),
        "owner": COLDKEY,
        "uid": 7,
    }
    return Facts(**fields | changes)


class World(msgspec.Struct, kw_only=True):
    """What the chain says."""

    away: bool = False
    payments: dict[str, Facts] = {}
    registered: dict[str, int] = msgspec.field(default_factory=lambda: {MINER.ss58_address: 7, OTHER.ss58_address: 8})


def state(world: World, *, reference: str, miner_hotkey: str) -> Facts:
    """Of one payment and one hotkey, as the chain answers."""
    uid = world.registered.get(miner_hotkey)
    owner = COLDKEY if miner_hotkey in (MINER.ss58_address, OTHER.ss58_address) else None
    known = world.payments.get(reference)
    if known is None:
        unknown = facts(block_time=0.0, block_number=None, canonical=False, call=None, signer=None, successes=0)
        known = msgspec.structs.replace(unknown, block_time_seconds=None, transfers=())
    return msgspec.structs.replace(
        known, uid=None if known.uid is None else uid, owner=None if known.owner is None else owner
    )


@dataclass
class MadeUpChain:
    """In this process: the test changes its world, and sees how often it was asked."""

    world: World = field(default_factory=World)
    hangs: bool = False
    forgets: bool = False
    """It has discarded the state of the blocks in which was paid."""
    asked: int = 0

    async def facts(self, *, reference: str, miner_hotkey: str, netuid: int) -> Facts:
        await self._answer(netuid)
        if self.forgets:
            raise TransientFault("state discarded")
        return state(self.world, reference=reference, miner_hotkey=miner_hotkey)

    async def uid_of(self, *, miner_hotkey: str, netuid: int) -> int | None:
        await self._answer(netuid)
        return self.world.registered.get(miner_hotkey)

    async def _answer(self, netuid: int) -> None:
        assert netuid == NETUID
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.world.away:
            raise TransientFault("cannot reach the chain at ws://node/secret")


def form(
    source: bytes,
    *,
    payment: str,
    at: float,
    by: Keypair = MINER,
    hotkey: str | None = None,
    recipient: str = RECIPIENT,
    netuid: int = NETUID,
    code_sha256: str,
) -> dict[str, Any]:
    """What a miner sends, signed."""
    address = hotkey or by.ss58_address
    said = SignedRequest(netuid=netuid, recipient=recipient, signed_at_seconds=int(at), signature="")
    text = message(said, miner_hotkey=address, code_sha256=code_sha256, payment_reference=payment)
    return {
        "files": {"file": ("train.py", source)},
        "data": {
            "miner_hotkey": address,
            "payment": payment,
            "signed_at": str(int(at)),
            "signature": f"0x{by.sign(text).hex()}",
        },
    }


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(environ: Mapping[str, str]) -> None:
    """Let the process kill itself just before, or just after, it has stored an event of one type."""
    append = Bus.append

    async def deadly(self: Bus, event: Event, **options: Any) -> Recorded:
        if type(event).__name__ == environ.get("KILL_BEFORE"):
            _die()
        recorded = await append(self, event, **options)
        if type(event).__name__ == environ.get("KILL_AFTER"):
            _die()
        return recorded

    Bus.append = deadly  # type: ignore[method-assign]


def _answer_from(path: Path) -> None:
    def world() -> World:
        known = msgspec.json.decode(path.read_bytes(), type=World)
        if known.away:
            raise TransientFault("cannot reach the chain")
        return known

    async def ask_facts(chain: Chain, *, reference: str, miner_hotkey: str, netuid: int) -> Facts:
        return state(world(), reference=reference, miner_hotkey=miner_hotkey)

    async def ask_uid(chain: Chain, *, miner_hotkey: str, netuid: int) -> int | None:
        return world().registered.get(miner_hotkey)

    async def ask_genesis(chain: Chain) -> str:
        world()
        return GENESIS

    chain_questions.facts, chain_questions.uid_of, chain_questions.genesis_hash = ask_facts, ask_uid, ask_genesis


if __name__ == "__main__":
    _answer_from(Path(os.environ["CHAIN_WORLD"]))
    _arm(os.environ)
    raise SystemExit(process.run("ingest", main.main))
