"""A checked file -> SubmissionPaid, or PaymentClaimed where its payment cannot be checked yet; and by work queues:
SubmissionPaid -> EvalRequested, PaymentClaimed -> SubmissionPaid or PaymentRefused, EvaluationAbandoned ->
CreditGranted. All can be killed at any point, repeated, and run in any number of replicas: what is recorded already is
recognised, never repeated.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from services.ingest import decide
from services.ingest.payment import Facts, Proven, Refused, Waits, judge, not_registered
from shared import streams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus, retry_seconds
from shared.events import EvaluationAbandoned, PaymentClaimed, Recorded, SubmissionPaid
from shared.faults import PoisonMessage, Refusal, TransientFault
from shared.hparams import Economy, Hparams
from shared.logs import logger
from shared.request import parse_credit
from shared.submission import Submission, fold

T = TypeVar("T")
Check = Callable[[bytes], Awaitable[None]]
"""Raises InvalidSubmission when a file cannot be a submission."""
REQUEST_CHAIN_SECONDS = 4.0
"""How long a request waits for the chain before it becomes a claim."""
QUEUE_CHAIN_SECONDS = 60.0
"""How long a claim waits for it in one delivery. The chain bounds itself below that."""
MOST_WAITING = 1000
"""Claims at a time. A claim costs nothing: without a bound, somebody could fill the disk with code, the node with
questions, and the queue, so that nobody else's claim is ever looked at.
"""


class AskFacts(Protocol):
    async def __call__(self, *, reference: str, miner_hotkey: str, netuid: int) -> Facts: ...


class AskUid(Protocol):
    async def __call__(self, *, miner_hotkey: str, netuid: int) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class Till:
    """How payments are taken: to whom they must have gone, on what terms, and the two questions to the chain. Both
    raise TransientFault while it does not answer.
    """

    recipient: str
    economy: Economy
    facts: AskFacts
    uid_of: AskUid


class NotPaid(Exception):
    """The payment does not buy this submission. `refusal` says why, the message also what to do."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.detail)
        self.refusal: Refusal = refused.refusal


class CannotWait(Exception):
    """The payment cannot be checked now, and does not become a claim: it was refused before, or too many wait already.
    The message says which.
    """


@dataclass(frozen=True, kw_only=True)
class Submitted:
    submission: Submission
    created: bool
    """False when it was there already, or another request recorded it at the same moment."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The submission is a claim, which goes on by itself when the chain can be asked."""

    recorded: Recorded
    """The PaymentClaimed, now or from before."""


async def submit(bus: Bus, artifacts: ArtifactStore, source: bytes, *, miner_hotkey: str) -> Submitted:
    """Keep the code and record the submission, unpaid. Safe to repeat, also when it is unknown how it ended before.

    Raises:
        TransientFault: NATS or the disk does not answer. Ask again.
    """
    paid = decide.free(
        miner_hotkey=miner_hotkey, code_sha256=hashlib.sha256(source).hexdigest(), code_bytes=len(source)
    )
    story = await bus.load(subjects.submission(paid.submission_id))
    if decide.accept(story, paid):
        story = await _record(bus, artifacts, source, paid)
    return _submitted(story, stored=paid)


async def buy(
    bus: Bus,
    artifacts: ArtifactStore,
    till: Till,
    source: bytes,
    claim: PaymentClaimed,
    *,
    check: Check,
    received_at_seconds: float,
) -> Submitted | Waiting:
    """Keep the code and record that it was paid for, or that it waits for the chain. The claim's signature was checked.
    Safe to repeat, also when it is unknown how it ended before.

    The file is checked last, one at a time and for seconds if it is made for that: nobody without a payment has others
    wait for it.

    Raises:
        InvalidSubmission: the file cannot be a submission. The payment stays valid.
        NotPaid: the payment does not buy this. The code was not kept.
        CannotWait: the chain does not answer, and it was refused before, or too many wait. The code was not kept.
        TransientFault: NATS or the disk does not answer. Ask again.
    """
    aggregate = subjects.submission(claim.submission_id)
    story, paid = await bus.load(aggregate), None
    if fold(story) is None:
        waited = await bus.load(subjects.claim(claim.claim_id))
        outcome = await _judge(
            bus,
            till,
            claim,
            received_at_seconds=decide.received_at_seconds(waited, now_seconds=received_at_seconds),
            patience_seconds=REQUEST_CHAIN_SECONDS,
        )
        match outcome:
            case Proven():
                await check(source)
                paid = _paid(claim, outcome)
                story = await _record(bus, artifacts, source, paid)
            case Refused():
                story = await bus.load(aggregate)  # another may have proven it while the chain was asked
                if fold(story) is None:
                    await _record_refusal(bus, claim, outcome)
                    raise NotPaid(outcome)
            case Waits():
                claim = msgspec.structs.replace(claim, detail=outcome.detail)
                return await _wait(bus, artifacts, source, claim, check=check)
    taken = decide.already_used(story, claim)
    if taken is not None:
        await _record_refusal(bus, claim, taken)
        raise NotPaid(taken)
    return _submitted(story, stored=paid)


async def check_claim(bus: Bus, till: Till, recorded: Recorded, deliveries: int) -> None:
    """Handle one PaymentClaimed: it becomes a submission, or is refused, or waits on.

    Raises:
        TransientFault: it waits on.
    """
    claim = recorded.event
    if not isinstance(claim, PaymentClaimed):
        raise PoisonMessage(f"expected PaymentClaimed, received {recorded.envelope.type}")
    if not decide.waits(await bus.load(subjects.claim(claim.claim_id))):
        return
    aggregate = subjects.submission(claim.submission_id)
    story = await bus.load(aggregate)
    if fold(story) is None:
        outcome = await _judge(
            bus,
            till,
            claim,
            received_at_seconds=recorded.envelope.time.timestamp(),
            patience_seconds=QUEUE_CHAIN_SECONDS,
        )
        match outcome:
            case Proven():
                paid = _paid(claim, outcome)  # its code was kept before the claim was recorded
                story = await bus.transact(aggregate, lambda known: decide.accept(known, paid), cause=recorded)
            case Refused():
                story = await bus.load(aggregate)  # a request may have proven it while the chain was asked
                if fold(story) is None:
                    await _record_refusal(bus, claim, outcome, cause=recorded)
                    return
            case Waits():
                raise TransientFault(f"claim {claim.claim_id} waits: {outcome.detail}")
    taken = decide.already_used(story, claim)
    if taken is not None:
        await _record_refusal(bus, claim, taken, cause=recorded)


async def request_evaluation(bus: Bus, competition: Hparams, recorded: Recorded, deliveries: int) -> None:
    """Handle one SubmissionPaid: ask for its evaluation unless that was done."""
    if not isinstance(recorded.event, SubmissionPaid):
        raise PoisonMessage(f"expected SubmissionPaid, received {recorded.envelope.type}")
    await bus.transact(
        subjects.submission(recorded.event.submission_id),
        lambda story: decide.request(story, hparams_sha256=competition.sha256, runs=competition.evaluation.runs),
        cause=recorded,
    )


async def give_up(bus: Bus, competition: Hparams, recorded: Recorded, deliveries: int, why: str) -> None:
    """Try once more before the dead letter is written: somebody paid, and nothing but the stream is needed.

    While NATS stores nothing this raises TransientFault too, which keeps the message. So no outage, however long,
    leaves a submission without its evaluation.
    """
    await request_evaluation(bus, competition, recorded, deliveries)


async def grant_credit(bus: Bus, recorded: Recorded, deliveries: int) -> None:
    """Handle one EvaluationAbandoned: its hotkey's next submission is paid for, if this one was."""
    abandoned = recorded.event
    if not isinstance(abandoned, EvaluationAbandoned):
        raise PoisonMessage(f"expected EvaluationAbandoned, received {recorded.envelope.type}")
    granted = decide.grant(await bus.load(subjects.submission(abandoned.submission_id)), abandoned)
    if granted is None:
        return
    await bus.transact(subjects.credit(granted.credit_id), lambda story: decide.credit(story, granted), cause=recorded)
    logger().info("credit granted", credit=granted.credit_id, miner_hotkey=granted.miner_hotkey)


async def give_up_credit(bus: Bus, recorded: Recorded, deliveries: int, why: str) -> None:
    """Try once more before the dead letter is written, as `give_up` does: somebody paid."""
    await grant_credit(bus, recorded, deliveries)


async def reach_chain(ask_genesis: Callable[[], Awaitable[str]], genesis_hash: asyncio.Future[str]) -> None:
    """Ask for the chain's genesis until it answers. That opens the connection, too, before the first request needs it.

    Which chain it is tells a miner whether the money would go where the validator looks for it.
    """
    attempt = 0
    while True:
        try:
            genesis_hash.set_result(await ask_genesis())
        except TransientFault as fault:
            attempt += 1
            logger().warning("the chain does not answer", error=str(fault), attempt=attempt)
            await asyncio.sleep(retry_seconds(attempt))
        else:
            return


async def _judge(
    bus: Bus, till: Till, claim: PaymentClaimed, *, received_at_seconds: float, patience_seconds: float
) -> Proven | Refused | Waits:
    credit_id = parse_credit(claim.payment_reference)
    if credit_id is None:
        facts = await _asked(
            till.facts(reference=claim.payment_reference, miner_hotkey=claim.miner_hotkey, netuid=till.economy.netuid),
            patience_seconds=patience_seconds,
        )
        if isinstance(facts, Waits):
            # The node may have forgotten this block only. Then a claim would wait for good, and anybody could name one.
            uid = await _asked(_uid(till, claim), patience_seconds=patience_seconds / 2)
            return facts if uid is not None else not_registered(claim.miner_hotkey, economy=till.economy, paid=None)
        return judge(
            facts,
            reference=claim.payment_reference,
            miner_hotkey=claim.miner_hotkey,
            recipient=till.recipient,
            economy=till.economy,
            received_at_seconds=received_at_seconds,
        )
    refused = decide.credit_refused(await bus.load(subjects.credit(credit_id)), claim)
    if refused is not None:
        return refused
    uid = await _asked(_uid(till, claim), patience_seconds=patience_seconds)
    return uid if isinstance(uid, Waits) else decide.spend(claim, uid=uid)


def _uid(till: Till, claim: PaymentClaimed) -> Awaitable[int | None]:
    return till.uid_of(miner_hotkey=claim.miner_hotkey, netuid=till.economy.netuid)


async def _asked(question: Awaitable[T], *, patience_seconds: float) -> T | Waits:
    """The chain's answer, or that there is none now. Why stays in the log: an endpoint may have a secret in it."""
    try:
        async with asyncio.timeout(patience_seconds):
            return await question
    except (TransientFault, TimeoutError) as fault:
        logger().warning("the chain does not answer", error=str(fault) or f"nothing within {patience_seconds:g} s")
        return Waits(detail="the validator's node of the chain does not answer")


def _paid(claim: PaymentClaimed, proven: Proven) -> SubmissionPaid:
    if proven.overpaid_rao:
        logger().info("paid more than it costs", submission=claim.submission_id, overpaid_rao=proven.overpaid_rao)
    return decide.bought(claim, proven)


async def _record(bus: Bus, artifacts: ArtifactStore, source: bytes, paid: SubmissionPaid) -> list[Recorded]:
    # The code first: whoever reads the event finds it.
    await asyncio.to_thread(artifacts.put, source)
    return await bus.transact(subjects.submission(paid.submission_id), lambda story: decide.accept(story, paid))


async def _record_refusal(bus: Bus, claim: PaymentClaimed, refused: Refused, *, cause: Recorded | None = None) -> None:
    logger().info("not paid", claim=claim.claim_id, refusal=refused.refusal, detail=refused.detail)
    named = claim if await bus.load(subjects.claim(claim.claim_id)) else decide.lost(claim)
    await bus.transact(subjects.claim(named.claim_id), lambda story: decide.refuse(story, named, refused), cause=cause)


async def _wait(bus: Bus, artifacts: ArtifactStore, source: bytes, claim: PaymentClaimed, *, check: Check) -> Waiting:
    aggregate = subjects.claim(claim.claim_id)
    story = await bus.load(aggregate)
    _expect_no_refusal(story, claim)
    if not story and await bus.unfinished(streams.CHECK_CLAIMS) >= MOST_WAITING:
        raise CannotWait(f"{claim.detail}, and too many other payments wait already")
    await check(source)
    await asyncio.to_thread(artifacts.put, source)
    story = await bus.transact(aggregate, lambda known: decide.wait(known, claim))
    _expect_no_refusal(story, claim)
    logger().info("claimed", claim=claim.claim_id, miner_hotkey=claim.miner_hotkey, detail=claim.detail)
    return Waiting(recorded=story[0])


def _expect_no_refusal(story: list[Recorded], claim: PaymentClaimed) -> None:
    refused = decide.refused_before(story)
    if refused is not None:
        raise CannotWait(f"this was refused before ({refused.refusal}), and cannot be checked again: {claim.detail}")


def _submitted(story: list[Recorded], *, stored: SubmissionPaid | None) -> Submitted:
    submission = fold(story)
    assert submission is not None
    # An event that this call stored is this very object; one that another stored was decoded from the stream.
    created = submission.paid is stored
    logger().info(
        "submitted",
        submission=submission.submission_id,
        miner_hotkey=submission.paid.miner_hotkey,
        created=created,
    )
    return Submitted(submission=submission, created=created)
