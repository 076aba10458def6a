"""What ingest says of real payments: made on a real chain, and the same ones from a recording of it."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import bittensor
import msgspec
import pytest
from bittensor import calls

from services.ingest import chain as adapter
from services.ingest.payment import TRANSFERS, Facts, Proven, Refused, Transfer, Waits, judge
from shared.chain import Chain
from shared.faults import Refusal, TransientFault
from shared.hparams import Economy
from shared.request import parse_transfer, transfer_reference
from tests.support import chain as real
from tests.support.chain import COST_RAO, MINER, NETUID, RECIPIENT, VALIDATOR
from tests.support.chain_stage import RECORD, Scene, Stage, asking, started
from tests.support.recorded_chain import Endpoint, Replayer, load

ECONOMY = Economy(netuid=NETUID, submission_cost_rao=COST_RAO, weights_interval_seconds=600)
OTHER = real.wallet("//Charlie", "//Charlie//hot")
"""Has money and no hotkey on the subnet."""
ELSEWHERE = real.wallet("//Bob", "//Bob//elsewhere")
"""The miner's hotkey on another subnet."""
NEVER = real.wallet("//Bob", "//Bob//never")
"""On no subnet."""
OTHER_NETUID = 2
MOVED = Transfer(payer=MINER.coldkey_address, recipient=RECIPIENT, amount_rao=COST_RAO)
NOWHERE = "0x" + "11" * 32
"""Hash of no block."""
TOO_MUCH_RAO = 10**17
"""More than the miner has."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The question to ingest."""

    reference: str
    received_at_seconds: float
    miner_hotkey: str = MINER.hotkey_address


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a payment is made, and what it must be called."""

    name: str
    make: Callable[[bittensor.Client], Awaitable[str]]
    """Makes it and returns its reference."""
    verdict: Refusal | type[Proven | Waits]
    facts: dict[str, Any] = field(default_factory=dict)
    """What the chain must have said, as far as the verdict does not show it."""
    amount_rao: int | None = None
    received: bool = False
    hotkey: str = MINER.hotkey_address
    late_seconds: float = 0.0
    """How long after the chain's present time it is sent in."""
    unknown: bool = False
    """The node does not know the block."""
    then: Callable[[bittensor.Client, str], Awaitable[None]] | None = None
    """What happens on the chain while the payment waits; the verdict is the one after it."""


async def paid(client: bittensor.Client) -> str:
    """And the chain has gone on since."""
    reference = await real.pay(client)
    await real.new_block(client)
    await real.finalize(client)
    return reference


async def over_paid(client: bittensor.Client) -> str:
    return await real.pay(client, amount_rao=COST_RAO * 5 // 2)


async def allowing_death(client: bittensor.Client) -> str:
    call = calls.Balances.transfer_allow_death(dest=RECIPIENT, value=COST_RAO)
    return real.reference(await real.do(client, call, MINER))


async def failed(client: bittensor.Client) -> str:
    return await without_money(client, calls.Balances.transfer_keep_alive(dest=RECIPIENT, value=TOO_MUCH_RAO))


async def without_money(client: bittensor.Client, call: Any) -> str:
    """A call that cannot succeed, and is included in a block all the same."""
    result = await client.submit_call(call, MINER)
    assert not result.success
    await real.finalize(client)
    return real.reference(result)


async def to_another(client: bittensor.Client) -> str:
    return await real.pay(client, recipient=OTHER.coldkey_address)


async def too_small(client: bittensor.Client) -> str:
    return await real.pay(client, amount_rao=COST_RAO - 1)


async def transfer(client: bittensor.Client, *, source: str | None = None, amount_rao: int = COST_RAO) -> Any:
    """A payment to put inside of another call."""
    if source is None:
        return await real.compose(client, calls.Balances.transfer_keep_alive(dest=RECIPIENT, value=amount_rao))
    return await real.compose(client, calls.Balances.force_transfer(source=source, dest=RECIPIENT, value=amount_rao))


async def batch(client: bittensor.Client) -> str:
    """A payment like any other, but inside of a batch."""
    call = calls.Utility.batch(calls=[await transfer(client)])
    return real.reference(await real.do(client, call, MINER))


async def batch_that_fails_inside(client: bittensor.Client) -> str:
    """The chain says that the extrinsic succeeded, and nothing is paid."""
    return await without_money(client, calls.Utility.batch(calls=[await transfer(client, amount_rao=TOO_MUCH_RAO)]))


async def batch_all_of_two(client: bittensor.Client) -> str:
    """Two payments under one index."""
    call = calls.Utility.batch_all(calls=[await transfer(client), await transfer(client)])
    return real.reference(await real.do(client, call, MINER))


async def proxy(client: bittensor.Client) -> str:
    """Another account signs, the miner's pays."""
    delegate = OTHER.coldkey_address
    added, _ = await client.query(("Proxy", "Proxies"), [MINER.coldkey_address])
    if not added:
        await real.do(client, calls.Proxy.add_proxy(delegate=delegate, proxy_type="Any", delay=0), MINER)
    call = calls.Proxy.proxy(real=MINER.coldkey_address, force_proxy_type=None, call=await transfer(client))
    return real.reference(await real.do(client, call, OTHER))


async def forced(client: bittensor.Client) -> str:
    """Root moves the miner's money."""
    return real.reference(await real.sudo(client, await transfer(client, source=MINER.coldkey_address)))


async def everything(client: bittensor.Client) -> str:
    """transfer_all names no amount."""
    spender = real.wallet(f"//Spender{secrets.token_hex(4)}", "//Bob//hot")
    await real.pay(client, recipient=spender.coldkey_address, amount_rao=COST_RAO * 2)
    call = calls.Balances.transfer_all(dest=RECIPIENT, keep_alive=False)
    return real.reference(await real.do(client, call, spender))


async def by_another(client: bittensor.Client) -> str:
    return await real.pay(client, OTHER)


async def elsewhere(client: bittensor.Client) -> str:
    """By the owner of a hotkey that is on another subnet."""
    if await client.query(("SubtensorModule", "Uids"), [OTHER_NETUID, ELSEWHERE.hotkey_address]) is None:
        call = calls.SubtensorModule.burned_register(netuid=OTHER_NETUID, hotkey=ELSEWHERE.hotkey_address)
        await real.do(client, call, ELSEWHERE)
    return await real.pay(client)


async def not_final(client: bittensor.Client) -> str:
    reference = await real.pay(client, final=False)
    if await client.finalized_block() >= await client.block():
        pytest.skip("every block of this chain is final at once; let its finality lag behind")
    return reference


async def orphaned(client: bittensor.Client) -> str:
    reference = await real.pay(client, final=False)
    await leave(client, reference)
    return reference


async def leave(client: bittensor.Client, reference: str) -> None:
    """The chain goes on from the block before the payment's, and is final beyond it."""
    block_hash, _ = parse_transfer(reference) or pytest.fail("no transfer")
    header = await real.transport(client).rpc_request("chain_getHeader", [block_hash])
    await real.leave(client, header["parentHash"])
    for _ in range(2):
        await real.new_block(client)
    await real.finalize(client)


async def finalize(client: bittensor.Client, reference: str) -> None:
    await real.finalize(client)


async def beyond_the_block(client: bittensor.Client) -> str:
    block_hash, index = parse_transfer(await real.pay(client)) or pytest.fail("no transfer")
    return transfer_reference(block_hash, index + 1)


async def inherent(client: bittensor.Client) -> str:
    """What the block's author put there, signed by nobody."""
    block_hash, _ = parse_transfer(await real.pay(client)) or pytest.fail("no transfer")
    return transfer_reference(block_hash, 0)


async def of_no_block(client: bittensor.Client) -> str:
    return transfer_reference(NOWHERE, 1)


LATE_SECONDS = ECONOMY.payment_max_age_seconds + 10.0
CASES = [
    Case(name="paid", make=paid, verdict=Proven, amount_rao=COST_RAO),
    Case(name="paid-allowing-death", make=allowing_death, verdict=Proven, amount_rao=COST_RAO),
    Case(name="over-paid", make=over_paid, verdict=Proven, amount_rao=COST_RAO * 5 // 2),
    Case(name="just-in-time", make=real.pay, verdict=Proven, amount_rao=COST_RAO, late_seconds=LATE_SECONDS - 60),
    Case(
        name="failed",
        make=failed,
        verdict=Refusal.FAILED,
        facts={"call": TRANSFERS[0], "successes": 0, "failures": 1, "transfers": ()},
    ),
    Case(name="wrong-recipient", make=to_another, verdict=Refusal.WRONG_RECIPIENT, amount_rao=COST_RAO),
    Case(name="too-small", make=too_small, verdict=Refusal.TOO_SMALL, amount_rao=COST_RAO - 1, received=True),
    Case(
        name="too-old",
        make=real.pay,
        verdict=Refusal.TOO_OLD,
        amount_rao=COST_RAO,
        received=True,
        late_seconds=LATE_SECONDS,
    ),
    Case(name="batch", make=batch, verdict=Refusal.NOT_A_TRANSFER, facts={"call": "Utility.batch", "successes": 1}),
    Case(
        name="batch-failed-inside",
        make=batch_that_fails_inside,
        verdict=Refusal.NOT_A_TRANSFER,
        facts={"call": "Utility.batch", "successes": 1, "failures": 0, "transfers": ()},
    ),
    Case(
        name="batch-all",
        make=batch_all_of_two,
        verdict=Refusal.NOT_A_TRANSFER,
        facts={"call": "Utility.batch_all", "transfers": (MOVED, MOVED)},
    ),
    Case(
        name="proxy",
        make=proxy,
        verdict=Refusal.NOT_A_TRANSFER,
        facts={"call": "Proxy.proxy", "signer": OTHER.coldkey_address, "transfers": (MOVED,)},
    ),
    Case(
        name="force-transfer",
        make=forced,
        verdict=Refusal.NOT_A_TRANSFER,
        facts={"call": "Sudo.sudo", "signer": RECIPIENT, "transfers": (MOVED,)},
    ),
    Case(name="transfer-all", make=everything, verdict=Refusal.NOT_A_TRANSFER, facts={"call": "Balances.transfer_all"}),
    Case(
        name="inherent", make=inherent, verdict=Refusal.NOT_A_TRANSFER, facts={"call": "Timestamp.set", "signer": None}
    ),
    Case(name="somebody-elses", make=by_another, verdict=Refusal.WRONG_PAYER, amount_rao=COST_RAO),
    Case(
        name="wrong-owner",
        make=real.pay,
        verdict=Refusal.WRONG_PAYER,
        facts={"owner": RECIPIENT, "uid": 1},
        amount_rao=COST_RAO,
        hotkey=VALIDATOR.hotkey_address,
    ),
    Case(
        name="no-owner",
        make=real.pay,
        verdict=Refusal.WRONG_PAYER,
        facts={"owner": None, "uid": None},
        amount_rao=COST_RAO,
        hotkey=NEVER.hotkey_address,
    ),
    Case(
        name="not-registered",
        make=elsewhere,
        verdict=Refusal.HOTKEY_NOT_REGISTERED,
        facts={"owner": MINER.coldkey_address, "uid": None},
        amount_rao=COST_RAO,
        received=True,
        hotkey=ELSEWHERE.hotkey_address,
    ),
    Case(name="not-final", make=not_final, verdict=Waits),
    Case(name="becomes-final", make=not_final, then=finalize, verdict=Proven, amount_rao=COST_RAO),
    Case(name="orphaned", make=orphaned, verdict=Refusal.ORPHANED),
    Case(name="orphaned-while-waiting", make=not_final, then=leave, verdict=Refusal.ORPHANED),
    Case(name="beyond-the-block", make=beyond_the_block, verdict=Refusal.NOT_FOUND),
    Case(name="unknown-block", make=of_no_block, verdict=Waits, facts={"block_number": None}, unknown=True),
    Case(
        name="unknown-for-too-long",
        make=of_no_block,
        verdict=Refusal.NOT_FOUND,
        unknown=True,
        late_seconds=-LATE_SECONDS,
    ),
]
BY_NAME = {case.name: case for case in CASES}


def play(stage: Stage, case: Case, *, record: bool = RECORD) -> AbstractAsyncContextManager[Scene[Asked]]:
    async def set_up(client: bittensor.Client) -> Asked:
        reference = await case.make(client)
        now_ms = await client.query(("Timestamp", "Now"))
        return Asked(
            reference=reference,
            received_at_seconds=now_ms / 1000 + case.late_seconds,
            miner_hotkey=case.hotkey,
        )

    return stage.play(case.name, set_up, Asked, unknown=(NOWHERE,) if case.unknown else (), record=record)


async def ask(chain: Chain, asked: Asked) -> Facts:
    return await adapter.facts(chain, reference=asked.reference, miner_hotkey=asked.miner_hotkey, netuid=ECONOMY.netuid)


def verdict_on(facts: Facts, asked: Asked) -> Proven | Refused | Waits:
    return judge(
        facts,
        reference=asked.reference,
        miner_hotkey=asked.miner_hotkey,
        recipient=RECIPIENT,
        economy=ECONOMY,
        received_at_seconds=asked.received_at_seconds,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_verdict(case: Case, stage: Stage) -> None:
    async with play(stage, case) as scene, asking(scene.endpoint) as chain:
        asked = scene.asked
        if case.then is not None:
            waits = verdict_on(await ask(chain, asked), asked)
            assert isinstance(waits, Waits), waits
            then, reference = case.then, asked.reference
            await scene.happens(lambda client: then(client, reference))
        facts = await ask(chain, asked)
    assert {name: getattr(facts, name) for name in case.facts} == case.facts
    verdict = verdict_on(facts, asked)
    if isinstance(case.verdict, Refusal):
        assert isinstance(verdict, Refused), verdict
        assert verdict.refusal is case.verdict
        assert verdict.amount_rao == case.amount_rao
        assert verdict.received == case.received
        return
    assert isinstance(verdict, case.verdict), verdict
    if isinstance(verdict, Proven):
        assert verdict.payment.reference == asked.reference
        assert verdict.payment.amount_rao == case.amount_rao
        assert verdict.payment.payer == MINER.coldkey_address
        assert verdict.payment.recipient == RECIPIENT
        assert verdict.payment.block_number == facts.block_number
        assert verdict.uid == 2
        assert verdict.overpaid_rao == verdict.payment.amount_rao - COST_RAO


async def test_who_is_on_the_subnet_and_which_chain_it_is(stage: Stage) -> None:
    case = Case(name="hotkeys", make=real.pay, verdict=Proven)
    async with play(stage, case) as scene, asking(scene.endpoint) as chain:
        assert await adapter.uid_of(chain, miner_hotkey=MINER.hotkey_address, netuid=NETUID) == 2
        assert await adapter.uid_of(chain, miner_hotkey=NEVER.hotkey_address, netuid=NETUID) is None
        assert re.fullmatch("0x[0-9a-f]{64}", await adapter.genesis_hash(chain))


async def test_an_endpoint_that_dies_and_returns(stage: Stage) -> None:
    async with play(stage, BY_NAME["paid"], record=False) as scene, asking(scene.endpoint) as chain:
        before = await ask(chain, scene.asked)
        await scene.endpoint.kill()
        for _ in range(2):
            with pytest.raises(TransientFault):
                await ask(chain, scene.asked)
        await scene.endpoint.start()
        after = await ask(chain, scene.asked)
    assert verdict_on(after, scene.asked) == verdict_on(before, scene.asked)
    assert isinstance(verdict_on(after, scene.asked), Proven)


async def test_an_endpoint_that_was_never_there_is_asked_again(stage: Stage) -> None:
    async with play(stage, BY_NAME["paid"], record=False) as scene, asking(scene.endpoint) as chain:
        await scene.endpoint.kill()
        with pytest.raises(TransientFault, match="cannot reach the chain"):
            await ask(chain, scene.asked)
        await scene.endpoint.start()
        assert isinstance(verdict_on(await ask(chain, scene.asked), scene.asked), Proven)


async def test_a_node_that_hangs_up_in_good_order_is_asked_again(nothing_on_disk: None) -> None:
    async with started(Endpoint(Replayer(load("paid").exchanges))) as endpoint, asking(endpoint) as chain:
        endpoint.hangs_up_at = "chain_getFinalizedHead"
        with pytest.raises(TransientFault):
            await chain.ask(lambda client: client.finalized_block(), timeout_seconds=0.5)
        endpoint.hangs_up_at = None
        assert await chain.ask(lambda client: client.finalized_block()) > 0


@asynccontextmanager
async def node_that_says(
    answers: Callable[[str, Any], dict[str, Any] | None], *, case: str = "paid"
) -> AsyncIterator[tuple[Asked, Chain]]:
    """The recorded chain of a case, but where the function has another answer."""
    recording = load(case)
    replayer = Replayer(recording.exchanges)

    async def answer(method: str, params: Any) -> dict[str, Any]:
        return answers(method, params) or await replayer(method, params)

    async with started(Endpoint(answer)) as endpoint, asking(endpoint) as chain:
        yield msgspec.convert(recording.asked, Asked), chain
    assert replayer.unrecorded == []


async def test_state_that_the_node_has_discarded_is_no_refusal(nothing_on_disk: None) -> None:
    pruned = True
    block_hash = load("paid").asked["reference"].split("-")[0]

    def answer(method: str, params: Any) -> dict[str, Any] | None:
        if pruned and method == "state_getStorageAt" and params[-1] == block_hash:
            return {
                "error": {
                    "code": 4003,
                    "message": f"Client error: UnknownBlock: State already discarded for {block_hash}",
                }
            }
        return None

    async with node_that_says(answer) as (asked, chain):
        with pytest.raises(TransientFault, match="archive node"):
            await ask(chain, asked)
        pruned = False
        assert isinstance(verdict_on(await ask(chain, asked), asked), Proven)


async def test_a_node_that_lacks_a_block_it_calls_final_is_no_refusal(nothing_on_disk: None) -> None:
    def answer(method: str, params: Any) -> dict[str, Any] | None:
        return {"result": None} if method == "chain_getBlockHash" and params != [0] else None

    async with node_that_says(answer) as (asked, chain):
        with pytest.raises(TransientFault, match="says that it is final"):
            await ask(chain, asked)
    async with node_that_says(answer, case="not-final") as (asked, chain):
        assert isinstance(verdict_on(await ask(chain, asked), asked), Waits)


async def test_a_header_without_its_block_is_no_refusal(nothing_on_disk: None) -> None:
    async with node_that_says(lambda method, _: {"result": None} if method == "chain_getBlock" else None) as (
        asked,
        chain,
    ):
        with pytest.raises(TransientFault, match="not its body"):
            await ask(chain, asked)


async def test_an_extrinsic_that_cannot_be_decoded_is_no_refusal(nothing_on_disk: None) -> None:
    recording = load("paid")
    (said,) = [exchange.answer for exchange in recording.exchanges if exchange.method == "chain_getBlock"]
    assert said is not None
    _, index = parse_transfer(recording.asked["reference"]) or pytest.fail("no transfer")
    said["result"]["block"]["extrinsics"][index] = "0x2884ff"

    async with node_that_says(lambda method, _: said if method == "chain_getBlock" else None) as (asked, chain):
        with pytest.raises(TransientFault, match="cannot be decoded"):
            await ask(chain, asked)


async def test_the_empty_block_that_development_nodes_invent_is_an_unknown_one(nothing_on_disk: None) -> None:
    nowhere = "0x" + "22" * 32

    def answer(method: str, params: Any) -> dict[str, Any] | None:
        if method == "chain_getHeader" and params == [nowhere]:
            return {"result": {"parentHash": "0x" + "45" * 32, "number": "0x0", "digest": {"logs": []}}}
        return None

    async with node_that_says(answer) as (known, chain):
        asked = msgspec.structs.replace(known, reference=transfer_reference(nowhere, 1))
        facts = await ask(chain, asked)
    assert facts.block_number is None
    assert isinstance(verdict_on(facts, asked), Waits)


async def test_a_request_that_is_not_recorded_is_loud(nothing_on_disk: None) -> None:
    recording = load("paid")
    asked = msgspec.structs.replace(msgspec.convert(recording.asked, Asked), miner_hotkey=NEVER.hotkey_address)
    replayer = Replayer(recording.exchanges)
    async with started(Endpoint(replayer)) as endpoint, asking(endpoint) as chain:
        with pytest.raises(TransientFault, match="not recorded: state_getStorageAt"):
            await ask(chain, asked)
    assert len(replayer.unrecorded) == 1
