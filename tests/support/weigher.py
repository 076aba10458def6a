"""A chain for weights in memory, that does what the real one was seen to do: see tests/chain/test_chain_weights.py."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.weights.decide import FULL_WEIGHT, Answer, ChainView
from shared.faults import TransientFault

VALIDATOR = "5DFSbmzFjeVVuqEAGeQNRcRzPcUVXJyfrqZgAVUiiRQqoW4d"
VALIDATOR_UID = 1


@dataclass
class FakeWeigher:
    """Shared by all replicas of a test. `block` moves only when something is sent, or the test moves it."""

    uids: dict[str, int] = field(default_factory=dict)
    validator_hotkey: str = VALIDATOR
    validator_uid: int | None = VALIDATOR_UID
    permitted: bool = True
    rate_limit_blocks: int = 0
    commit_reveal: bool = False
    can_commit: bool = False
    block: int = 100
    last_update: int = 0
    row: tuple[tuple[int, int], ...] = ()
    away: bool = False
    sent: list[int] = field(default_factory=list)
    before_send: Callable[[], None] = lambda: None
    """What happens between reading and setting."""
    after_send: Callable[[], None] = lambda: None
    """What happens between setting and its answer."""

    async def view(self, hotkeys: Sequence[str]) -> ChainView:
        if self.away:
            raise TransientFault("cannot reach the chain")
        return ChainView(
            block=self.block,
            validator_hotkey=self.validator_hotkey,
            validator_uid=self.validator_uid,
            permitted=self.permitted,
            last_update=self.last_update,
            row=self.row,
            rate_limit_blocks=self.rate_limit_blocks,
            commit_reveal=self.commit_reveal,
            can_commit=self.can_commit,
            uids={hotkey: self.uids[hotkey] for hotkey in hotkeys if hotkey in self.uids},
        )

    async def send(self, uid: int) -> Answer:
        self.before_send()
        if self.away:
            raise TransientFault("cannot reach the chain")
        await asyncio.sleep(0)
        self.sent.append(uid)
        self.block += 1
        self.last_update = self.block
        if not self.commit_reveal:
            self.row = ((uid, FULL_WEIGHT),)
        self.after_send()
        return Answer(
            success=True,
            message="Success",
            committed=self.commit_reveal,
            block_number=self.block,
            extrinsic=f"0x{self.block:064x}-1",
            row=self.row,
            holder=next((hotkey for hotkey, held in self.uids.items() if held == uid), None),
        )
