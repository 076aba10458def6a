"""A checked file -> SubmissionPaid; SubmissionPaid -> EvalRequested by a work queue. Both can be killed at any point,
repeated, and run in any number of replicas: what is recorded already is recognised, never repeated.
"""

import asyncio
import hashlib
from dataclasses import dataclass

from services.ingest import decide, payment
from shared import subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import Recorded, SubmissionPaid
from shared.faults import PoisonMessage
from shared.hparams import Hparams
from shared.logs import logger
from shared.submission import Submission, fold


class PaymentAlreadyUsed(Exception):
    """The payment has bought another submission. The message says which, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    submission: Submission
    created: bool
    """False when it was there already, or another request recorded it at the same moment."""


async def submit(bus: Bus, artifacts: ArtifactStore, source: bytes, *, miner_hotkey: str) -> Submitted:
    """Keep the code and record that it was paid for. Safe to repeat, also when it is unknown how it ended before.

    Raises:
        PaymentAlreadyUsed: nothing was stored.
        TransientFault: NATS or the disk does not answer. Ask again.
    """
    code_sha256 = hashlib.sha256(source).hexdigest()
    paid = decide.submission(
        miner_hotkey=miner_hotkey,
        code_sha256=code_sha256,
        code_bytes=len(source),
        payment=await payment.confirm(miner_hotkey=miner_hotkey, code_sha256=code_sha256),
    )
    aggregate = subjects.submission(paid.submission_id)
    story = await bus.load(aggregate)
    if decide.accept(story, paid):
        # The code first: whoever reads the event finds it.
        await asyncio.to_thread(artifacts.put, source)
        story = await bus.transact(aggregate, lambda known: decide.accept(known, paid))
    refusal = decide.refuses_payment(story, paid)
    if refusal is not None:
        raise PaymentAlreadyUsed(refusal)
    submission = fold(story)
    assert submission is not None
    # An event that this call stored is this very object; one that another stored was decoded from the stream.
    created = submission.paid is paid
    logger().info("submitted", submission=paid.submission_id, miner_hotkey=miner_hotkey, created=created)
    return Submitted(submission=submission, created=created)


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
