"""What the weights service hears from the chain and sends to it: on a real chain, and from a recording of that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import bittensor
import pytest
from bittensor import calls

from services.weights.chain import ChainWeigher
from services.weights.decide import FULL_WEIGHT
from shared.faults import TransientFault
from shared.request import parse_transfer
from tests.support import chain as real
from tests.support.chain import MINER, NETUID, OWNER, VALIDATOR, Wallet
from tests.support.chain_stage import RECORD, Scene, Stage, started
from tests.support.real_weigher import limit, weighing
from tests.support.recorded_chain import WATCH, Endpoint, Replayer, load

BOTH = (MINER.hotkey_address, OWNER.hotkey_address)
TO_OWNER, TO_MINER = ((0, FULL_WEIGHT),), ((2, FULL_WEIGHT),)
NOBODY = real.wallet("//No", "//No//one")
LIMIT_BLOCKS = 50


async def to_owner(client: bittensor.Client) -> None:
    """Everything is the owner's, and the next weights may follow at once."""
    await real.permit(client)
    await limit(client, 0)
    call = calls.SubtensorModule.set_weights(netuid=NETUID, dests=[0], weights=[FULL_WEIGHT], version_key=0)
    await real.do(client, call, VALIDATOR, signer="hotkey")
    await real.new_block(client)
    await real.finalize(client)


@asynccontextmanager
async def playing(
    stage: Stage, name: str, folder: Path, who: Wallet = VALIDATOR, *, record: bool = RECORD
) -> AsyncIterator[tuple[Scene[None], ChainWeigher]]:
    async with (
        stage.play(f"weights-{name}", to_owner, record=record) as scene,
        weighing(scene.endpoint.url, folder, who) as weigher,
    ):
        yield scene, weigher


async def test_what_is_set_is_read_back(stage: Stage, tmp_path: Path) -> None:
    async with playing(stage, "set", tmp_path) as (scene, weigher):
        before = await weigher.view([*BOTH, NOBODY.hotkey_address])
        answer = await weigher.send(2)
        await scene.happens(real.finalize)
        after = await weigher.view([])
    assert (before.validator_hotkey, before.validator_uid, before.permitted) == (VALIDATOR.hotkey_address, 1, True)
    assert (before.uids, before.row) == ({MINER.hotkey_address: 2, OWNER.hotkey_address: 0}, TO_OWNER)
    assert (before.rate_limit_blocks, before.commit_reveal) == (0, False)
    assert 0 < before.last_update <= before.block
    assert (answer.success, answer.committed, answer.row) == (True, False, TO_MINER)
    assert answer.holder == MINER.hotkey_address
    _, index = parse_transfer(answer.extrinsic or "") or pytest.fail("no reference")
    assert index > 0
    assert answer.block_number is not None
    assert before.block < answer.block_number == after.last_update <= after.block
    assert (after.row, after.uids) == (TO_MINER, {})


async def test_without_a_permit(stage: Stage, tmp_path: Path) -> None:
    async with playing(stage, "no-permit", tmp_path, MINER) as (_, weigher):
        view = await weigher.view([])
        answer = await weigher.send(0)
    assert (view.validator_uid, view.permitted, view.row) == (2, False, ())
    assert (answer.success, answer.row) == (False, ())
    assert "permit" in answer.message


async def test_not_registered(stage: Stage, tmp_path: Path) -> None:
    async with playing(stage, "not-registered", tmp_path, NOBODY) as (_, weigher):
        view = await weigher.view(BOTH)
        answer = await weigher.send(2)
    assert (view.validator_uid, view.permitted, view.last_update, view.row) == (None, False, 0, ())
    assert view.uids == {MINER.hotkey_address: 2, OWNER.hotkey_address: 0}
    assert (answer.success, answer.row) == (False, ())
    assert "registered" in answer.message


async def test_within_the_rate_limit(stage: Stage, tmp_path: Path) -> None:
    async with playing(stage, "rate-limit", tmp_path) as (scene, weigher):
        await scene.happens(lambda client: limit(client, LIMIT_BLOCKS))
        view = await weigher.view([])
        answer = await weigher.send(2)
        await scene.happens(lambda client: limit(client, 0))
    assert view.rate_limit_blocks == LIMIT_BLOCKS
    assert (answer.success, answer.row) == (False, TO_OWNER)
    assert "rate limit" in answer.message


async def test_an_endpoint_that_dies_and_returns(stage: Stage, tmp_path: Path) -> None:
    async with playing(stage, "set", tmp_path, record=False) as (scene, weigher):
        await weigher.view(BOTH)
        await scene.endpoint.kill()
        with pytest.raises(TransientFault):
            await weigher.view([])
        with pytest.raises(TransientFault):
            await weigher.send(2)
        await scene.endpoint.start()
        assert (await weigher.send(2)).row == TO_MINER


async def test_an_endpoint_that_dies_when_it_has_taken_the_weights(stage: Stage, tmp_path: Path) -> None:
    """They are set, and nobody says so: that is no answer, and the next look shows it."""
    async with playing(stage, "taken", tmp_path) as (scene, weigher):
        assert (await weigher.view([])).row == TO_OWNER
        scene.endpoint.dies_at = WATCH
        with pytest.raises(TransientFault):
            await weigher.send(2)
        scene.endpoint.dies_at = None
        await scene.endpoint.start()
        await scene.happens(real.finalize)
        assert (await weigher.view([])).row == TO_MINER


async def test_other_weights_than_the_recorded_ones_are_loud(nothing_on_disk: None, tmp_path: Path) -> None:
    """All of a recorded extrinsic counts but its signature."""
    replayer = Replayer(load("weights-set").exchanges)
    async with started(Endpoint(replayer)) as endpoint, weighing(endpoint.url, tmp_path) as weigher:
        with pytest.raises(TransientFault, match=f"not recorded: {WATCH}"):
            await weigher.send(0)
    assert len(replayer.unrecorded) == 1
