"""The SDK's intent for weights, where a runtime has it: what it is given, and what its answers mean."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import bittensor
import pytest
from bittensor.error_map import ErrorCode
from bittensor.result import ChainError, ExtrinsicResult
from bittensor.sp_core import Keypair

from services.weights.chain import SEND_SECONDS, ChainWeigher
from services.weights.decide import ERA_BLOCKS, GRACE_SECONDS, Answer
from shared.chain import OPEN_SECONDS, Chain
from shared.faults import TransientFault

T = TypeVar("T")
BLOCK = f"0x{'ab' * 32}"
TAKEN = ExtrinsicResult(success=True, message="Success", block_hash=BLOCK, extrinsic_id="1001-0003")


class NewRuntime:
    """A node whose runtime has all that the intent reads. Its transactions end as the test says."""

    def __init__(self, outcome: ExtrinsicResult | ChainError, *, commit_reveal: bool) -> None:
        self.outcome = outcome
        self.sent: list[tuple[Any, dict[str, Any]]] = []
        self._storage: dict[str, Any] = {
            "SubnetEpochConsensus": "Yuma",
            "CommitRevealWeightsEnabled": commit_reveal,
            "WeightsVersionKey": 8,
            "Uids": 1,
            "Keys": "leader",
            "Weights": [(4, 65_535)],
        }
        self._substrate = SimpleNamespace(query=self.query)

    async def query(self, pallet: str, item: str, keys: list[Any], block_hash: str | None = None) -> Any:
        assert (pallet, keys[0]) == ("SubtensorModule", 3)
        assert block_hash in (None, BLOCK)
        return self._storage[item]

    async def execute(self, intent: Any, wallet: Any, **options: Any) -> ExtrinsicResult:
        self.sent.append((intent, options))
        if isinstance(self.outcome, ChainError):
            raise self.outcome
        return self.outcome

    async def ask(self, question: Callable[[Any], Awaitable[T]], *, timeout_seconds: float = 0.0) -> T:
        return await question(self)


async def send(node: NewRuntime, folder: Path) -> Answer:
    wallet = bittensor.Wallet("w", "h", str(folder))
    wallet.hotkey_file.set_keypair(Keypair.create_from_uri("//Alice//hot"), encrypt=False)
    return await ChainWeigher(cast("Chain", node), wallet, netuid=3).send(4)


@pytest.mark.parametrize("commit_reveal", [False, True])
async def test_the_intent_gives_everything_to_one_uid_and_commits_where_the_subnet_wants_that(
    tmp_path: Path, commit_reveal: bool
) -> None:
    node = NewRuntime(TAKEN, commit_reveal=commit_reveal)
    answer = await send(node, tmp_path)
    ((intent, options),) = node.sent
    assert intent == bittensor.SetWeights(netuid=3, weights={4: 1.0}, version_key=8)
    assert options == {"period": ERA_BLOCKS, "wait_for_finalization": True}
    assert answer == Answer(
        success=True,
        message="Success",
        committed=commit_reveal,
        block_number=1001,
        extrinsic=f"{BLOCK}-3",
        row=((4, 65_535),),
        holder="leader",
    )


async def test_what_the_sdk_refuses_before_it_signs_is_an_answer(tmp_path: Path) -> None:
    node = NewRuntime(ChainError("too soon", code=ErrorCode.RATE_LIMITED), commit_reveal=False)
    assert await send(node, tmp_path) == Answer(success=False, message="too soon")


async def test_what_may_still_arrive_is_no_answer(tmp_path: Path) -> None:
    lost = ExtrinsicResult(success=False, message="Connection lost")
    with pytest.raises(TransientFault, match="did not take the weights: Connection lost"):
        await send(NewRuntime(lost, commit_reveal=False), tmp_path)


async def test_what_breaks_while_it_is_sent_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(ChainError):
        await send(NewRuntime(ChainError("connection lost"), commit_reveal=False), tmp_path)


def test_the_grace_outlasts_everything_that_sending_can_take() -> None:
    block_seconds, fresh_seconds = 12, 30
    assert fresh_seconds + OPEN_SECONDS + SEND_SECONDS + ERA_BLOCKS * block_seconds < GRACE_SECONDS
