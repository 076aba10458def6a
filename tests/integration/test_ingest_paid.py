"""Paid submissions, on a real NATS server and a chain that is made up: a payment buys one submission, for ever,
whatever is sent twice, raced, altered, killed, or cannot be looked up for a while.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from bittensor.sp_core import Keypair

from deploy.local.program import free_port
from services.ingest import decide, handlers, http
from services.ingest.check import SourceCheck
from services.ingest.handlers import Till
from services.ingest.payment import Facts, Proven, Transfer
from shared import bus, hparams, request, streams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.clock import Now, utc_now
from shared.events import (
    CreditGranted,
    EvalRequested,
    EvaluationAbandoned,
    MessageDeadLettered,
    Payment,
    PaymentClaimed,
    PaymentRefused,
    SignedRequest,
    SubmissionPaid,
)
from shared.faults import Refusal
from shared.submission import fold
from tests.support.ingest_process import DEMO, REQUEST_SECONDS, Process, events, some
from tests.support.paid_ingest import (
    COLDKEY,
    GENESIS,
    MINER,
    NETUID,
    OTHER,
    RECIPIENT,
    STRANGER,
    MadeUpChain,
    World,
    facts,
    form,
)
from tests.support.servers import NatsServer, eventually
from tests.support.stories import abandoned, paid, requested

pytestmark = pytest.mark.servers

COMPETITION = hparams.load(DEMO)
COST = COMPETITION.economy.submission_cost_rao
SOURCE = b"def inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n"
OTHER_SOURCE = SOURCE + b"# other\n"
TRANSFER = f"0x{'6f' * 32}-2"


def shop(chain: MadeUpChain) -> Till:
    return Till(recipient=RECIPIENT, economy=COMPETITION.economy, facts=chain.facts, uid_of=chain.uid_of)


@contextlib.asynccontextmanager
async def replica(
    url: str, artifacts: ArtifactStore, chain: MadeUpChain, *, now: Now = utc_now
) -> AsyncIterator[httpx.AsyncClient]:
    """One replica of the ingest service, as main composes it, in this process; claims are checked often."""
    loop = asyncio.get_running_loop()
    till = shop(chain)
    ingest = http.Ingest(
        bus=loop.create_future(),
        artifacts=artifacts,
        check=SourceCheck(max_bytes=COMPETITION.max_code_bytes),
        competition=COMPETITION,
        api_url="https://tournament.example",
        till=till,
        genesis_hash=loop.create_future(),
        now=now,
    )
    async with (
        bus.connect(url, producer="ingest", now=now) as connected,
        httpx.AsyncClient(transport=httpx.ASGITransport(http.create(ingest)), base_url="http://ingest") as client,
        asyncio.TaskGroup() as tasks,
    ):
        ingest.bus.set_result(connected)
        quick = dataclasses.replace(streams.CHECK_CLAIMS, pauses_seconds=(0.05,))
        queues = [
            (streams.REQUEST_EVALUATIONS, functools.partial(handlers.request_evaluation, connected, COMPETITION)),
            (streams.GRANT_CREDITS, functools.partial(handlers.grant_credit, connected)),
            (quick, functools.partial(handlers.check_claim, connected, till)),
        ]
        work = [tasks.create_task(connected.consume(queue, handler, slots=2)) for queue, handler in queues]
        yield client
        for task in work:
            task.cancel()
        await ingest.check.close()


@pytest.fixture
def chain() -> MadeUpChain:
    """It knows one payment, of the right amount, a minute old."""
    world = World(payments={TRANSFER: facts(block_time=time.time() - 60.0)})
    return MadeUpChain(world)


@pytest.fixture
async def ingest(nats_url: str, artifacts: ArtifactStore, chain: MadeUpChain) -> AsyncIterator[httpx.AsyncClient]:
    async with replica(nats_url, artifacts, chain) as client:
        yield client


def signed(
    source: bytes = SOURCE, *, payment: str = TRANSFER, at: float | None = None, **changes: Any
) -> dict[str, Any]:
    return form(
        source,
        payment=payment,
        at=time.time() if at is None else at,
        **{"code_sha256": hashlib.sha256(source).hexdigest(), **changes},
    )


async def no_check(source: bytes) -> None:
    """Every file will do."""


def claimed(source: bytes, *, payment: str = TRANSFER) -> PaymentClaimed:
    """What a signed request asks for."""
    fields = signed(source, payment=payment)["data"]
    return decide.claim(
        miner_hotkey=fields["miner_hotkey"],
        code_sha256=hashlib.sha256(source).hexdigest(),
        code_bytes=len(source),
        payment_reference=payment,
        request=SignedRequest(
            netuid=NETUID,
            recipient=RECIPIENT,
            signed_at_seconds=int(fields["signed_at"]),
            signature=fields["signature"],
        ),
    )


async def send(client: httpx.AsyncClient, sent: dict[str, Any]) -> httpx.Response:
    return await client.post("/submissions", **sent)


async def kinds(connection: Bus) -> list[str]:
    return [recorded.envelope.type for recorded in await connection.load(subjects.ALL)]


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def kept(artifacts: ArtifactStore, source: bytes) -> bool:
    digest = hashlib.sha256(source).hexdigest()
    return (artifacts.root / digest[:2] / digest).exists()


async def test_a_proven_payment_buys_a_submission_at_once(
    ingest: httpx.AsyncClient, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    sent = signed()
    response = await send(ingest, sent)
    body = response.json()
    assert response.status_code == 201
    assert body["submission_id"] == request.submission_id(TRANSFER)
    assert body["status_url"] == f"https://tournament.example/submissions/{body['submission_id']}"
    (bought,) = await events(connection, SubmissionPaid)
    assert (bought.miner_hotkey, bought.miner_uid, bought.code_bytes) == (MINER.ss58_address, 7, len(SOURCE))
    payment = bought.payment
    assert (payment.reference, payment.amount_rao, payment.block_number) == (TRANSFER, COST, 90)
    assert (payment.payer, payment.recipient) == (COLDKEY, RECIPIENT)
    # What is recorded is enough to check the signature again.
    assert bought.request is not None
    assert bought.request.signature == sent["data"]["signature"]
    text = request.message(
        bought.request, miner_hotkey=bought.miner_hotkey, code_sha256=bought.code_sha256, payment_reference=TRANSFER
    )
    assert MINER.verify(text, bytes.fromhex(bought.request.signature[2:]))
    assert artifacts.get(bought.code_sha256) == SOURCE
    (asked,) = await eventually(some(connection, EvalRequested))
    assert asked.submission_id == bought.submission_id
    assert await kinds(connection) == ["SubmissionPaid", "EvalRequested"]


async def test_the_same_again_is_the_same_submission_and_the_chain_is_not_asked(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    sent = signed()
    first = await send(ingest, sent)
    assert (first.status_code, chain.asked) == (201, 1)
    chain.world.away = True
    for again in (sent, signed(at=time.time() - 100)):  # byte for byte, and signed anew
        response = await send(ingest, again)
        assert (response.status_code, response.json()) == (200, first.json())
    assert chain.asked == 1
    assert len(await events(connection, SubmissionPaid)) == 1


async def test_what_is_paid_too_much_is_taken_and_recorded(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    chain.world.payments[TRANSFER] = facts(block_time=time.time(), amount=COST + 5)
    assert (await send(ingest, signed())).status_code == 201
    (bought,) = await events(connection, SubmissionPaid)
    assert bought.payment.amount_rao == COST + 5


def paying(payer: str = COLDKEY, recipient: str = RECIPIENT, amount: int = COST) -> tuple[Transfer, ...]:
    return (Transfer(payer=payer, recipient=recipient, amount_rao=amount),)


NOW = time.time()
"""When this was collected, long before some of it runs: good for blocks, which may be a day old, not for requests."""
REFUSED: list[tuple[Refusal, Facts, bool]] = [
    (Refusal.NOT_FOUND, facts(block_time=NOW, call=None, signer=None, successes=0, transfers=()), False),
    (Refusal.ORPHANED, facts(block_time=NOW, canonical=False), False),
    (Refusal.FAILED, facts(block_time=NOW, successes=0, failures=1, transfers=()), False),
    (Refusal.NOT_A_TRANSFER, facts(block_time=NOW, call="Utility.batch_all"), False),
    (Refusal.WRONG_RECIPIENT, facts(block_time=NOW, transfers=paying(recipient=COLDKEY)), False),
    (Refusal.TOO_SMALL, facts(block_time=NOW, amount=COST - 1), True),
    (Refusal.TOO_OLD, facts(block_time=NOW - 10 * 86_400), True),
    (Refusal.WRONG_PAYER, facts(block_time=NOW, owner=None), False),
    (Refusal.HOTKEY_NOT_REGISTERED, facts(block_time=NOW, uid=None), False),
]


@pytest.mark.parametrize(("refusal", "said", "recorded"), REFUSED, ids=[row[0].value for row in REFUSED])
async def test_what_buys_nothing_is_refused_and_recorded_only_where_money_was_lost(
    *,
    ingest: httpx.AsyncClient,
    connection: Bus,
    artifacts: ArtifactStore,
    chain: MadeUpChain,
    refusal: Refusal,
    said: Facts,
    recorded: bool,
) -> None:
    chain.world.payments[TRANSFER] = said
    response = await send(ingest, signed())
    assert code(response) == (402, refusal)
    assert len(response.json()["detail"]) > 20
    assert code(await send(ingest, signed())) == (402, refusal)
    assert await kinds(connection) == (["PaymentRefused"] if recorded else [])
    for event in await events(connection, PaymentRefused):
        assert (event.refusal, event.miner_hotkey, event.payer) == (refusal, MINER.ss58_address, COLDKEY)
        assert event.amount_rao == said.transfers[0].amount_rao
    assert not kept(artifacts, SOURCE)


async def test_money_that_was_lost_is_recorded_once_whatever_files_are_sent_with_it(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    """The stream never forgets: for one transfer of one RAO, anybody could fill it for ever."""
    chain.world.payments[TRANSFER] = facts(block_time=NOW, amount=1)
    for number in range(5):
        assert code(await send(ingest, signed(SOURCE + b"#%d" % number))) == (402, "payment_too_small")
    (refused,) = await events(connection, PaymentRefused)
    assert refused.code_sha256 == hashlib.sha256(SOURCE + b"#0").hexdigest()


async def test_a_hotkey_that_registers_later_can_use_its_payment(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    uid = chain.world.registered.pop(MINER.ss58_address)
    assert code(await send(ingest, signed())) == (402, "hotkey_not_registered")
    chain.world.registered[MINER.ss58_address] = uid
    assert (await send(ingest, signed())).status_code == 201


async def test_other_code_and_other_hotkeys_cannot_have_a_payment_that_was_used(
    ingest: httpx.AsyncClient, connection: Bus, artifacts: ArtifactStore
) -> None:
    assert (await send(ingest, signed())).status_code == 201
    for other in (signed(OTHER_SOURCE), signed(by=OTHER), signed(by=STRANGER)):
        assert code(await send(ingest, other)) == (409, "payment_already_used")
    assert not kept(artifacts, OTHER_SOURCE)
    assert await events(connection, PaymentRefused) == []
    assert len(await events(connection, SubmissionPaid)) == 1


async def test_an_invalid_file_uses_up_no_payment(ingest: httpx.AsyncClient, chain: MadeUpChain) -> None:
    assert code(await send(ingest, signed(b"x = 1"))) == (422, "invalid_submission")
    chain.world.away = True
    assert code(await send(ingest, signed(b"x = 1"))) == (422, "invalid_submission")
    chain.world.away = False
    assert (await send(ingest, signed())).status_code == 201


async def test_who_has_not_paid_keeps_nobody_waiting_for_the_check_of_a_file(ingest: httpx.AsyncClient) -> None:
    """Files can be made that take seconds, and are checked one after the other."""
    assert code(await send(ingest, signed(b"x = 1", by=STRANGER))) == (402, "payment_wrong_payer")
    unknown = signed(b"x = 1", by=STRANGER, payment=f"0x{'e' * 64}-1")
    assert code(await send(ingest, unknown)) == (402, "hotkey_not_registered")


ALTERED: list[tuple[str, dict[str, Any], tuple[int, str]]] = [
    ("another file", {"files": {"file": ("train.py", OTHER_SOURCE)}}, (401, "signature_invalid")),
    ("another hotkey", {"miner_hotkey": OTHER.ss58_address}, (401, "signature_invalid")),
    ("another payment", {"payment": f"0x{'6f' * 32}-3"}, (401, "signature_invalid")),
    ("a credit", {"payment": f"credit:{'a' * 32}"}, (401, "signature_invalid")),
    ("another spelling of the payment", {"payment": f"0x{'6F' * 32}-2"}, (422, "invalid_request")),
    ("a little later", {"signed_at": None}, (401, "signature_invalid")),
    ("another signature", {"signature": f"0x{'5e' * 64}"}, (401, "signature_invalid")),
    ("an upper-case signature", {"signature": f"0x{'5E' * 64}"}, (422, "invalid_request")),
]


@pytest.mark.parametrize(("why", "change", "expected"), ALTERED, ids=[row[0] for row in ALTERED])
async def test_an_altered_request_is_refused(
    *, ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain, why: str, change: dict[str, Any], expected: Any
) -> None:
    sent = signed()
    files = change.get("files", sent["files"])
    later = str(int(sent["data"]["signed_at"]) + 1)
    fields = {name: value or later for name, value in change.items() if name != "files"}
    for repeat in range(2):  # before the request itself arrived, and after it
        altered = {"files": files, "data": sent["data"] | fields}
        assert code(await send(ingest, altered)) == expected, why
        assert len(await events(connection, SubmissionPaid)) == repeat
        assert (await send(ingest, sent)).status_code == (201, 200)[repeat]


async def test_a_request_for_another_validator_is_refused_here(ingest: httpx.AsyncClient, connection: Bus) -> None:
    for elsewhere in (signed(recipient=COLDKEY), signed(netuid=4)):
        response = await send(ingest, elsewhere)
        assert code(response) == (401, "signature_invalid")
        assert f"recipient: {RECIPIENT}" in response.json()["detail"]
        assert "netuid: 3" in response.json()["detail"]
    assert await kinds(connection) == []


async def test_a_stale_request_is_refused_even_if_it_was_accepted_before(
    nats_url: str, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    begin = datetime.now(UTC)
    clock = [begin]
    sent = signed(at=begin.timestamp())
    async with replica(nats_url, artifacts, chain, now=lambda: clock[0]) as client:
        assert (await send(client, sent)).status_code == 201
        for off in (request.MAX_CLOCK_SKEW_SECONDS + 2, -request.MAX_CLOCK_SKEW_SECONDS - 2):
            clock[0] = begin + timedelta(seconds=off)
            response = await send(client, sent)
            assert code(response) == (401, "request_stale")
            assert str(int(clock[0].timestamp())) in response.json()["detail"]
        clock[0] = begin + timedelta(seconds=request.MAX_CLOCK_SKEW_SECONDS - 2)
        assert (await send(client, sent)).status_code == 200


async def test_while_the_chain_is_away_a_submission_waits_and_goes_on_by_itself(
    ingest: httpx.AsyncClient, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    chain.world.away = True
    sent = signed()
    response = await send(ingest, sent)
    body = response.json()
    assert response.status_code == 202
    assert list(body) == ["claim_id", "submission_id", "status", "status_url", "code_hash", "detail", "created_at"]
    (claim,) = await events(connection, PaymentClaimed)
    assert (body["claim_id"], body["submission_id"]) == (claim.claim_id, request.submission_id(TRANSFER))
    assert (body["status"], body["detail"]) == ("waiting", "the validator's node of the chain does not answer")
    assert body["status_url"] == f"https://tournament.example/payments/{TRANSFER}"
    assert "secret" not in claim.detail
    assert claim.request.signature == sent["data"]["signature"]
    assert artifacts.get(claim.code_sha256) == SOURCE
    again = await send(ingest, signed(at=time.time() - 9))
    assert (again.status_code, again.json()) == (202, body)
    asked = chain.asked

    async def tried() -> bool:
        return chain.asked > asked + 2

    await eventually(tried)
    assert await kinds(connection) == ["PaymentClaimed"]
    chain.world.away = False
    await eventually(some(connection, EvalRequested))
    claimed, bought, _ = await connection.load(subjects.ALL)
    assert bought.envelope.causation_id == claimed.envelope.id
    assert isinstance(bought.event, SubmissionPaid)
    assert bought.event.request == claim.request
    assert (await send(ingest, sent)).status_code == 200
    assert await kinds(connection) == ["PaymentClaimed", "SubmissionPaid", "EvalRequested"]


async def test_a_chain_that_hangs_is_waited_for_some_seconds_only(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "REQUEST_CHAIN_SECONDS", 0.3)
    monkeypatch.setattr(handlers, "QUEUE_CHAIN_SECONDS", 0.3)
    chain.hangs = True
    begin = time.monotonic()
    assert (await send(ingest, signed())).status_code == 202
    assert 0.3 < time.monotonic() - begin < 5.0
    chain.hangs = False
    await eventually(some(connection, SubmissionPaid))


async def test_a_block_that_is_not_final_is_waited_for(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    good = chain.world.payments[TRANSFER]
    chain.world.payments[TRANSFER] = msgspec.structs.replace(good, finalized_block=89)
    response = await send(ingest, signed())
    assert response.status_code == 202
    assert "final" in response.json()["detail"]
    chain.world.payments[TRANSFER] = good
    await eventually(some(connection, SubmissionPaid))


async def test_a_claim_is_refused_later_and_only_once(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    chain.world.away = True
    body = (await send(ingest, signed())).json()
    chain.world.payments[TRANSFER] = facts(block_time=time.time(), canonical=False)
    chain.world.away = False
    (refused,) = await eventually(some(connection, PaymentRefused))
    assert (refused.claim_id, refused.refusal) == (body["claim_id"], Refusal.ORPHANED)
    assert code(await send(ingest, signed())) == (402, "payment_orphaned")
    assert await kinds(connection) == ["PaymentClaimed", "PaymentRefused"]
    # It does not wait a second time: whoever wants it checked again has to come again.
    chain.world.away = True
    later = await send(ingest, signed())
    assert code(later) == (503, "try_again_later")
    assert "this was refused before (payment_orphaned), and cannot be checked again" in later.json()["detail"]
    assert await kinds(connection) == ["PaymentClaimed", "PaymentRefused"]


async def test_a_request_that_comes_again_settles_its_claim(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    chain.world.away = True
    async with replica(nats_url, artifacts, chain) as client:
        await send(client, signed())
        await send(client, signed(OTHER_SOURCE, payment=f"0x{'7' * 64}-0"))
        chain.world.payments[f"0x{'7' * 64}-0"] = facts(block_time=time.time(), amount=1)
        chain.world.away = False
        assert (await send(client, signed())).status_code in (200, 201)
        refused = await send(client, signed(OTHER_SOURCE, payment=f"0x{'7' * 64}-0"))
        assert code(refused) == (402, "payment_too_small")
        await settled(connection)
    assert sorted(await kinds(connection)) == [
        "EvalRequested",
        "PaymentClaimed",
        "PaymentClaimed",
        "PaymentRefused",
        "SubmissionPaid",
    ]


async def settled(connection: Bus) -> None:
    """Returns when no claim is in work or waits."""

    async def empty() -> bool:
        info = await connection._js.consumer_info(streams.STREAM, streams.CHECK_CLAIMS.name)
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)

    await eventually(empty)


async def test_an_outage_makes_no_payment_too_old(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    begin = datetime.now(UTC)
    clock = [begin]
    late = begin + timedelta(seconds=3 * COMPETITION.economy.payment_max_age_seconds)
    by_queue, by_request = f"0x{'1' * 64}-1", f"0x{'2' * 64}-1"
    for payment in (by_queue, by_request, TRANSFER):
        chain.world.payments[payment] = facts(block_time=begin.timestamp() - 5.0)
    chain.world.away = True
    async with replica(nats_url, artifacts, chain, now=lambda: clock[0]) as client:
        for payment in (by_queue, by_request):
            assert (await send(client, signed(payment=payment, at=begin.timestamp()))).status_code == 202
        clock[0] = late
        chain.world.away = False
        again = await send(client, signed(payment=by_request, at=late.timestamp()))
        assert again.status_code in (200, 201)
        await eventually(some(connection, SubmissionPaid, 2))
        # What comes for the first time is as old as it is.
        fresh = await send(client, signed(at=late.timestamp()))
        assert code(fresh) == (402, "payment_too_old")


@pytest.mark.parametrize(
    ("source", "by"),
    [(OTHER_SOURCE, MINER), (SOURCE, OTHER), (SOURCE, STRANGER)],
    ids=["other code", "another hotkey of its owner", "a stranger"],
)
async def test_two_claims_on_one_payment_do_not_block_each_other(
    *, ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain, source: bytes, by: Keypair
) -> None:
    chain.world.away = True
    rival = await send(ingest, signed(source, by=by))  # the rival is first
    mine = await send(ingest, signed())
    assert (rival.status_code, mine.status_code) == (202, 202)
    chain.world.away = False
    (bought,) = await eventually(some(connection, SubmissionPaid))
    (refused,) = await eventually(some(connection, PaymentRefused))
    await settled(connection)
    # Whichever is proven first has it; what is not its own nobody can prove.
    claims = {rival.json()["claim_id"], mine.json()["claim_id"]}
    winner = request.claim_id(TRANSFER, miner_hotkey=bought.miner_hotkey, code_sha256=bought.code_sha256)
    assert claims == {winner, refused.claim_id}
    if by is STRANGER:
        assert winner == mine.json()["claim_id"]
        assert refused.refusal in ("payment_already_used", "payment_wrong_payer")
    else:
        assert refused.refusal == "payment_already_used"
    assert len(await events(connection, SubmissionPaid)) == len(await events(connection, PaymentRefused)) == 1


@pytest.mark.parametrize("mine", [True, False])
async def test_what_was_proven_while_the_chain_was_asked_is_not_refused(
    *, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain, mine: bool
) -> None:
    """The answer is older than what another replica has recorded since."""
    claim = claimed(SOURCE)
    bought = decide.bought(
        claimed(SOURCE if mine else OTHER_SOURCE),
        Proven(payment=Payment(reference=TRANSFER, amount_rao=COST), uid=7, overpaid_rao=0),
    )

    async def overtaken(**question: Any) -> Facts:
        aggregate = subjects.submission(bought.submission_id)
        await connection.transact(aggregate, lambda story: decide.accept(story, bought))
        return msgspec.structs.replace(chain.world.payments[TRANSFER], canonical=False)

    till = dataclasses.replace(shop(chain), facts=overtaken)
    if mine:
        outcome = await handlers.buy(
            connection, artifacts, till, SOURCE, claim, check=no_check, received_at_seconds=time.time()
        )
        assert isinstance(outcome, handlers.Submitted)
        assert outcome.created is False
    else:
        with pytest.raises(handlers.NotPaid, match="has paid for other code"):
            await handlers.buy(
                connection, artifacts, till, SOURCE, claim, check=no_check, received_at_seconds=time.time()
            )
    assert await kinds(connection) == ["SubmissionPaid"]


async def test_a_claim_that_was_proven_while_the_chain_was_asked_is_not_refused(
    connection: Bus, chain: MadeUpChain
) -> None:
    claim = claimed(SOURCE)
    waiting = await connection.append(claim, aggregate=subjects.claim(claim.claim_id), expected=0)
    proven = Proven(payment=Payment(reference=TRANSFER, amount_rao=COST), uid=7, overpaid_rao=0)

    async def overtaken(**question: Any) -> Facts:
        bought = decide.bought(claim, proven)
        aggregate = subjects.submission(bought.submission_id)
        await connection.transact(aggregate, lambda story: decide.accept(story, bought))
        return msgspec.structs.replace(chain.world.payments[TRANSFER], uid=None)

    await handlers.check_claim(connection, dataclasses.replace(shop(chain), facts=overtaken), waiting, 1)
    assert await kinds(connection) == ["PaymentClaimed", "SubmissionPaid"]


async def test_a_claim_yields_to_a_request_that_was_proven_first(
    connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    late, till = claimed(OTHER_SOURCE), shop(chain)
    waiting = await connection.append(late, aggregate=subjects.claim(late.claim_id), expected=0)
    await handlers.buy(
        connection, artifacts, till, SOURCE, claimed(SOURCE), check=no_check, received_at_seconds=time.time()
    )
    for delivery in (1, 2):
        await handlers.check_claim(connection, till, waiting, delivery)
        (refused,) = await events(connection, PaymentRefused)
        assert (refused.refusal, refused.claim_id) == (Refusal.ALREADY_USED, late.claim_id)
    assert await kinds(connection) == ["PaymentClaimed", "SubmissionPaid", "PaymentRefused"]


async def test_any_number_of_claims_that_wait_does_not_keep_another_from_its_first_check(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    artifacts.put(SOURCE)
    unknown = [f"0x{number:064x}-1" for number in range(100)]  # of these the chain knows nothing
    for payment in (*unknown, TRANSFER):
        claim = claimed(SOURCE, payment=payment)
        await connection.append(claim, aggregate=subjects.claim(claim.claim_id), expected=0)
    async with replica(nats_url, artifacts, chain):
        (bought,) = await eventually(some(connection, SubmissionPaid))
    assert bought.payment.reference == TRANSFER
    assert chain.asked > len(unknown)
    assert await events(connection, PaymentRefused) == []


async def test_a_block_that_the_node_has_forgotten_lets_no_stranger_wait(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    """He would wait for good, in the place of somebody who has paid."""
    chain.forgets = True
    assert code(await send(ingest, signed(by=STRANGER))) == (402, "hotkey_not_registered")
    assert await kinds(connection) == []
    assert (await send(ingest, signed())).status_code == 202


async def test_a_flood_of_claims_is_bounded_and_keeps_no_payment_out(
    ingest: httpx.AsyncClient,
    connection: Bus,
    artifacts: ArtifactStore,
    chain: MadeUpChain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handlers, "MOST_WAITING", 3)
    made_up = [f"0x{number:064x}-1" for number in range(3)]
    for payment in made_up:
        assert (await send(ingest, signed(payment=payment))).status_code == 202
    one_more = await send(ingest, signed(OTHER_SOURCE, payment=f"0x{'e' * 64}-1"))
    assert code(one_more) == (503, "try_again_later")
    assert "too many other payments wait already" in one_more.json()["detail"]
    assert not kept(artifacts, OTHER_SOURCE)
    assert (await send(ingest, signed(payment=made_up[0]))).status_code == 202, "it waits already"
    assert (await send(ingest, signed())).status_code == 201, "a payment that can be checked needs no claim"
    # A place is free again as soon as one of them is settled.
    chain.world.payments[made_up[0]] = facts(block_time=time.time(), canonical=False)
    await eventually(some(connection, PaymentRefused))

    async def accepted() -> bool:
        return (await send(ingest, signed(OTHER_SOURCE, payment=f"0x{'e' * 64}-1"))).status_code == 202

    await eventually(accepted)


async def test_two_replicas_racing_on_one_payment(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    rounds = 5
    async with replica(nats_url, artifacts, chain) as one, replica(nats_url, artifacts, chain) as other:
        for number in range(rounds):
            payment = f"0x{number:064x}-1"
            chain.world.payments[payment] = facts(block_time=time.time())
            rivals = [SOURCE + b"#%d" % (number % 2 and choice) for choice in range(4)]  # the same code, or other code
            sent = [signed(source, payment=payment) for source in rivals]
            responses = await asyncio.gather(*(send(to, form) for form in sent for to in (one, other)))
            statuses = sorted(response.status_code for response in responses)
            if number % 2:
                assert statuses == [200, 201, *[409] * 6]
            else:
                assert statuses == [*[200] * 7, 201]
            ids = {response.json()["submission_id"] for response in responses if response.status_code < 300}
            assert ids == {request.submission_id(payment)}
        await eventually(some(connection, EvalRequested, rounds))
    assert sorted(await kinds(connection)) == [*["EvalRequested"] * rounds, *["SubmissionPaid"] * rounds]


async def test_two_replicas_check_every_claim_once(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    chain.world.away = True
    count = 6
    async with replica(nats_url, artifacts, chain) as one, replica(nats_url, artifacts, chain) as other:
        for number in range(count):
            payment = f"0x{number:064x}-1"
            chain.world.payments[payment] = facts(block_time=time.time(), amount=COST - number % 2)
            for to in (one, other):
                assert (await send(to, signed(payment=payment))).status_code == 202
        chain.world.away = False
        await eventually(some(connection, PaymentRefused, count // 2))
        await eventually(some(connection, EvalRequested, count // 2))
        await settled(connection)
    found = await kinds(connection)
    assert {kind: found.count(kind) for kind in found} == {
        "PaymentClaimed": count,
        "PaymentRefused": count // 2,
        "SubmissionPaid": count // 2,
        "EvalRequested": count // 2,
    }


async def give_up(connection: Bus, submission_id: str, **changes: Any) -> EvaluationAbandoned:
    """The evaluator gives the latest evaluation up."""
    aggregate = subjects.submission(submission_id)
    state = fold(await connection.load(aggregate))
    assert state is not None
    assert state.requested is not None
    event = msgspec.structs.replace(abandoned(submission_id, state.requested.evaluation_id), **changes)
    await connection.append(event, aggregate=aggregate, expected=state.last_sequence)
    return event


async def credit(ingest: httpx.AsyncClient, connection: Bus) -> CreditGranted:
    """Of a submission that was paid for and given up."""
    submission_id = (await send(ingest, signed())).json()["submission_id"]
    await eventually(some(connection, EvalRequested))
    await give_up(connection, submission_id)
    (granted,) = await eventually(some(connection, CreditGranted))
    return granted


async def test_a_credit_is_granted_once_and_spent_once_by_two_replicas(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, chain: MadeUpChain
) -> None:
    async with replica(nats_url, artifacts, chain) as one, replica(nats_url, artifacts, chain) as other:
        granted = await credit(one, connection)
        given_up = (await connection.load(subjects.ALL))[-2]
        assert isinstance(given_up.event, EvaluationAbandoned)
        assert (granted.miner_hotkey, granted.evaluation_id) == (MINER.ss58_address, given_up.event.evaluation_id)
        assert granted.detail == given_up.event.detail
        await handlers.grant_credit(connection, given_up, 2)  # delivered again
        reference = request.credit_reference(granted.credit_id)
        for wrong in (signed(payment=reference, by=OTHER), signed(payment=f"credit:{'0' * 32}")):
            assert code(await send(one, wrong)) == (402, "credit_not_found")
        sent = [signed(SOURCE + b"#%d" % number, payment=reference) for number in range(4)]
        responses = await asyncio.gather(*(send(to, form) for form in sent for to in (one, other)))
        assert sorted(response.status_code for response in responses) == [200, 201, *[409] * 6]
        (_, bought) = await eventually(some(connection, SubmissionPaid, 2))
        assert bought.submission_id == request.submission_id(reference)
        assert (bought.payment.reference, bought.payment.amount_rao, bought.miner_uid) == (reference, 0, 7)
        await eventually(some(connection, EvalRequested, 2))
        # What a credit paid for is paid for: given up too, it gives another.
        await give_up(connection, bought.submission_id)
        first, second = await eventually(some(connection, CreditGranted, 2))
        assert first == granted
        assert second.submission_id == bought.submission_id
    assert await events(connection, PaymentRefused) == []


async def test_a_credit_waits_for_the_chain_as_a_payment_does(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    reference = request.credit_reference((await credit(ingest, connection)).credit_id)
    chain.world.away = True
    # No chain is needed to say that it is not theirs.
    assert code(await send(ingest, signed(payment=reference, by=OTHER))) == (402, "credit_not_found")
    assert (await send(ingest, signed(OTHER_SOURCE, payment=reference))).status_code == 202
    chain.world.away = False
    await eventually(some(connection, SubmissionPaid, 2))
    assert (await send(ingest, signed(OTHER_SOURCE, payment=reference))).status_code == 200


async def test_a_credit_of_a_hotkey_that_left_stays_valid(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    reference = request.credit_reference((await credit(ingest, connection)).credit_id)
    uid = chain.world.registered.pop(MINER.ss58_address)
    assert code(await send(ingest, signed(OTHER_SOURCE, payment=reference))) == (402, "hotkey_not_registered")
    chain.world.registered[MINER.ss58_address] = uid + 1
    assert (await send(ingest, signed(OTHER_SOURCE, payment=reference))).status_code == 201
    assert (await events(connection, SubmissionPaid))[-1].miner_uid == uid + 1


async def test_what_nobody_paid_for_gives_no_credit(
    ingest: httpx.AsyncClient, connection: Bus, chain: MadeUpChain
) -> None:
    free = paid("free")
    for event in (free, requested("free"), abandoned("free")):
        last = await connection.last(subjects.submission("free"))
        await connection.append(
            event, aggregate=subjects.submission("free"), expected=0 if last is None else last.sequence
        )
    granted = await credit(ingest, connection)  # by then the one before was handled, too
    assert granted.miner_hotkey == MINER.ss58_address
    assert len(await events(connection, CreditGranted)) == 1


async def test_nats_goes_away_while_the_chain_is_asked(
    nats_server: NatsServer, artifacts: ArtifactStore, chain: MadeUpChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PATIENCE_SECONDS", 3.0)
    async with replica(nats_server.url, artifacts, chain) as client:
        nats_server.kill()
        assert code(await send(client, signed())) == (503, "try_again_later")
        await asyncio.to_thread(nats_server.start)
        monkeypatch.setattr(http, "PATIENCE_SECONDS", 30.0)
        assert (await send(client, signed())).status_code in (200, 201)


async def test_it_says_what_to_pay_and_to_whom(ingest: httpx.AsyncClient) -> None:
    said = (await ingest.get("/info")).json()
    assert (said["payment_recipient"], said["submission_cost_rao"], said["netuid"]) == (RECIPIENT, COST, 3)
    assert said["payment_max_age_seconds"] == COMPETITION.economy.payment_max_age_seconds
    assert said["genesis_hash"] is None


@pytest.fixture
def program(nats_url: str, artifacts: ArtifactStore, chain: MadeUpChain) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(**settings: str) -> Process:
        started.append(Process(nats_url, artifacts, chain.world, **settings))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=REQUEST_SECONDS) as opened:
        yield opened


KILLS = [
    ("between artifact and event", "KILL_BEFORE", "SubmissionPaid", False, []),
    ("between event and answer", "KILL_AFTER", "SubmissionPaid", False, ["SubmissionPaid"]),
    ("between artifact and claim", "KILL_BEFORE", "PaymentClaimed", True, []),
    ("between claim and answer", "KILL_AFTER", "PaymentClaimed", True, ["PaymentClaimed"]),
]


@pytest.mark.parametrize(("why", "when", "event", "away", "stored"), KILLS, ids=[row[0] for row in KILLS])
async def test_kill_9_while_a_request_is_answered(
    *,
    program: Callable[..., Process],
    client: httpx.AsyncClient,
    connection: Bus,
    artifacts: ArtifactStore,
    chain: MadeUpChain,
    why: str,
    when: str,
    event: str,
    away: bool,
    stored: list[str],
) -> None:
    chain.world.away = away
    first = program(**{when: event})
    await first.ready(client)
    sent = signed()
    with pytest.raises(httpx.TransportError):
        await client.post(f"{first.url}/submissions", **sent)
    await first.killed()
    assert await kinds(connection) == stored, why
    assert kept(artifacts, SOURCE)
    # Without another request, what was stored goes on, and the miner's own repetition is the same.
    chain.world.away = False
    second = program()
    await second.ready(client)
    if stored:
        await eventually(some(connection, EvalRequested))
    response = await client.post(f"{second.url}/submissions", **sent)
    assert response.status_code == (200 if stored else 201)
    await eventually(some(connection, EvalRequested))
    assert (await client.post(f"{second.url}/submissions", **sent)).status_code == 200
    waited = [kind for kind in stored if kind == "PaymentClaimed"]
    assert await kinds(connection) == [*waited, "SubmissionPaid", "EvalRequested"]


@pytest.mark.parametrize(
    ("amount", "when", "event", "expected"),
    [
        (COST, "KILL_BEFORE", "SubmissionPaid", ["PaymentClaimed", "SubmissionPaid", "EvalRequested"]),
        (COST, "KILL_AFTER", "SubmissionPaid", ["PaymentClaimed", "SubmissionPaid", "EvalRequested"]),
        (1, "KILL_BEFORE", "PaymentRefused", ["PaymentClaimed", "PaymentRefused"]),
        (1, "KILL_AFTER", "PaymentRefused", ["PaymentClaimed", "PaymentRefused"]),
    ],
)
async def test_kill_9_while_a_claim_is_settled(
    *,
    program: Callable[..., Process],
    client: httpx.AsyncClient,
    connection: Bus,
    chain: MadeUpChain,
    amount: int,
    when: str,
    event: str,
    expected: list[str],
) -> None:
    chain.world.away = True
    chain.world.payments[TRANSFER] = facts(block_time=time.time() - 60.0, amount=amount)
    first = program(**{when: event})
    await first.ready(client)
    assert (await client.post(f"{first.url}/submissions", **signed())).status_code == 202
    chain.world.away = False
    first.tell(chain.world)
    await first.killed()
    second = program()
    await second.ready(client)

    async def done() -> bool:
        return len(await kinds(connection)) >= len(expected)

    await eventually(done)
    await settled(connection)
    assert await kinds(connection) == expected
    assert await events(connection, MessageDeadLettered) == []


async def test_kill_9_while_a_credit_is_granted(
    program: Callable[..., Process], client: httpx.AsyncClient, connection: Bus
) -> None:
    first = program(KILL_AFTER="CreditGranted")
    await first.ready(client)
    body = (await client.post(f"{first.url}/submissions", **signed())).json()
    await eventually(some(connection, EvalRequested))
    await give_up(connection, body["submission_id"])
    await first.killed()
    second = program(KILL_AFTER="SubmissionPaid")
    await second.ready(client)
    (granted,) = await events(connection, CreditGranted)
    sent = signed(OTHER_SOURCE, payment=request.credit_reference(granted.credit_id))
    with pytest.raises(httpx.TransportError):
        await client.post(f"{second.url}/submissions", **sent)
    await second.killed()
    third = program()
    await third.ready(client)
    assert (await client.post(f"{third.url}/submissions", **sent)).status_code == 200
    assert code(await client.post(f"{third.url}/submissions", **signed(payment=sent["data"]["payment"]))) == (
        409,
        "payment_already_used",
    )
    assert len(await events(connection, CreditGranted)) == 1
    assert len(await events(connection, SubmissionPaid)) == 2


async def test_the_program_learns_which_chain_it_is(
    program: Callable[..., Process], client: httpx.AsyncClient, chain: MadeUpChain
) -> None:
    chain.world.away = True
    running = program()
    await running.ready(client)
    assert (await client.get(f"{running.url}/info")).json()["genesis_hash"] is None
    chain.world.away = False
    running.tell(chain.world)

    async def known() -> bool:
        return bool((await client.get(f"{running.url}/info")).json()["genesis_hash"] == GENESIS)

    await eventually(known)
    running.process.terminate()
    assert await asyncio.to_thread(running.process.wait, REQUEST_SECONDS) == 0


async def test_the_real_main_with_a_node_that_is_not_there(
    program: Callable[..., Process], client: httpx.AsyncClient, connection: Bus
) -> None:
    running = program(MODULE="services.ingest.main", TOURNAMENT_CHAIN_ENDPOINT=f"ws://127.0.0.1:{free_port()}")
    await running.ready(client)
    assert (await client.get(f"{running.url}/info")).json()["payment_recipient"] == RECIPIENT
    response = await client.post(f"{running.url}/submissions", **signed())
    assert response.status_code == 202
    assert await kinds(connection) == ["PaymentClaimed"]
    running.process.terminate()
    assert await asyncio.to_thread(running.process.wait, REQUEST_SECONDS) == 0
    assert [line for line in running.log.read_text().splitlines() if not line.startswith("{")] == []
