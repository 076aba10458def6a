"""What ingest records about submissions, claims and credits, from their stories alone. Pure: no clock, no randomness,
no I/O.
"""

import msgspec

from services.ingest.payment import Proven, Refused
from shared import request as signed
from shared.events import (
    CreditGranted,
    EvalRequested,
    EvaluationAbandoned,
    Payment,
    PaymentClaimed,
    PaymentRefused,
    Recorded,
    SignedRequest,
    SubmissionPaid,
)
from shared.faults import Refusal
from shared.ids import derive_id
from shared.submission import fold


def free(*, miner_hotkey: str, code_sha256: str, code_bytes: int) -> SubmissionPaid:
    """A submission of unpaid local mode: each file of each hotkey has a free payment of its own."""
    reference = f"unpaid:{derive_id(miner_hotkey, code_sha256)}"
    return SubmissionPaid(
        submission_id=signed.submission_id(reference),
        miner_hotkey=miner_hotkey,
        miner_uid=None,
        code_sha256=code_sha256,
        code_bytes=code_bytes,
        payment=Payment(reference=reference, amount_rao=0),
    )


def claim(
    *, miner_hotkey: str, code_sha256: str, code_bytes: int, payment_reference: str, request: SignedRequest
) -> PaymentClaimed:
    """A wish to have one payment for one code. It is recorded only when it has to wait, with why as its detail."""
    return PaymentClaimed(
        claim_id=signed.claim_id(payment_reference, miner_hotkey=miner_hotkey, code_sha256=code_sha256),
        submission_id=signed.submission_id(payment_reference),
        miner_hotkey=miner_hotkey,
        code_sha256=code_sha256,
        code_bytes=code_bytes,
        payment_reference=payment_reference,
        request=request,
        detail="",
    )


def bought(claimed: PaymentClaimed, proven: Proven) -> SubmissionPaid:
    """The submission that a proven payment buys. Its id is the payment's: what is sent again is the same submission."""
    return SubmissionPaid(
        submission_id=claimed.submission_id,
        miner_hotkey=claimed.miner_hotkey,
        miner_uid=proven.uid,
        code_sha256=claimed.code_sha256,
        code_bytes=claimed.code_bytes,
        payment=proven.payment,
        request=claimed.request,
    )


def accept(story: list[Recorded], paid: SubmissionPaid) -> list[SubmissionPaid]:
    """Record the submission; nothing when its payment has bought one already, this one or another."""
    return [paid] if fold(story) is None else []


def already_used(story: list[Recorded], wanted: SubmissionPaid | PaymentClaimed) -> Refused | None:
    """The refusal if the payment has bought something else. A payment buys one file of one miner, once."""
    state = fold(story)
    if state is None:
        return None
    paid = state.paid
    if paid.miner_hotkey != wanted.miner_hotkey:
        detail = (
            f"payment {paid.payment.reference} has paid for a submission of another hotkey; pay for this one and send "
            "it with the new payment"
        )
    elif paid.code_sha256 != wanted.code_sha256:
        detail = (
            f"payment {paid.payment.reference} has paid for other code, submission {paid.submission_id}; "
            "send that same file again, or pay for this one"
        )
    else:
        return None
    return Refused(refusal=Refusal.ALREADY_USED, detail=detail, payer=None, amount_rao=None, received=False)


def wait(story: list[Recorded], claimed: PaymentClaimed) -> list[PaymentClaimed]:
    """Record a claim that has to wait for the chain, once."""
    return [] if story else [claimed]


def received_at_seconds(story: list[Recorded], *, now_seconds: float) -> float:
    """When a payment was first asked to count: a claim's own time, since waiting makes no payment too old."""
    claims = (recorded.envelope.time for recorded in story if isinstance(recorded.event, PaymentClaimed))
    return min([now_seconds, *(time.timestamp() for time in claims)])


def waits(story: list[Recorded]) -> bool:
    """Whether a claim is recorded and not refused. That it was accepted is in its submission's story, not here."""
    kinds = {type(recorded.event) for recorded in story}
    return PaymentClaimed in kinds and PaymentRefused not in kinds


def refused_before(story: list[Recorded]) -> PaymentRefused | None:
    """The refusal of a claim, if there is one."""
    return next((recorded.event for recorded in story if isinstance(recorded.event, PaymentRefused)), None)


def refuse(story: list[Recorded], claimed: PaymentClaimed, refused: Refused) -> list[PaymentRefused]:
    """Record a refusal, once: of a claim that waits, or of money that did arrive and is of no use any more.

    Anything else bought nothing and cost nothing, and would let everybody write into the stream. A payment of a hotkey
    that is not registered can still be used.
    """
    if refused_before(story) is not None:
        return []
    lost = refused.received and refused.refusal is not Refusal.HOTKEY_NOT_REGISTERED
    if not (waits(story) or lost):
        return []
    return [
        PaymentRefused(
            claim_id=claimed.claim_id,
            submission_id=claimed.submission_id,
            miner_hotkey=claimed.miner_hotkey,
            code_sha256=claimed.code_sha256,
            payment_reference=claimed.payment_reference,
            refusal=refused.refusal,
            detail=refused.detail,
            payer=refused.payer,
            amount_rao=refused.amount_rao,
        )
    ]


def lost(claimed: PaymentClaimed) -> PaymentClaimed:
    """Under what money is recorded that arrived for nothing, and was never claimed: once for each payment and hotkey.
    With each other file somebody could write into the stream again, as often as he likes.
    """
    claim_id = signed.claim_id(claimed.payment_reference, miner_hotkey=claimed.miner_hotkey, code_sha256="")
    return msgspec.structs.replace(claimed, claim_id=claim_id)


def credit_refused(story: list[Recorded], claimed: PaymentClaimed) -> Refused | None:
    """Why a credit is not this miner's to spend, or None. That it is spent once is its submission's story."""
    granted = next((recorded.event for recorded in story if isinstance(recorded.event, CreditGranted)), None)
    if granted is not None and granted.miner_hotkey == claimed.miner_hotkey:
        return None
    owner = "there is no such credit" if granted is None else "it is another hotkey's credit"
    return Refused(
        refusal=Refusal.NO_SUCH_CREDIT,
        detail=f"{claimed.payment_reference}: {owner}; GET /credits?miner_hotkey={claimed.miner_hotkey} of the API "
        "lists those of this hotkey",
        payer=None,
        amount_rao=None,
        received=False,
    )


def spend(claimed: PaymentClaimed, *, uid: int | None) -> Proven | Refused:
    """Whether a credit that is this miner's buys the submission: its hotkey must be on the subnet."""
    if uid is None:
        return Refused(
            refusal=Refusal.HOTKEY_NOT_REGISTERED,
            detail=f"hotkey {claimed.miner_hotkey} is not registered on subnet {claimed.request.netuid}; register it "
            "and send the same again: the credit stays valid",
            payer=None,
            amount_rao=None,
            received=False,
        )
    return Proven(payment=Payment(reference=claimed.payment_reference, amount_rao=0), uid=uid, overpaid_rao=0)


def grant(story: list[Recorded], abandoned: EvaluationAbandoned) -> CreditGranted | None:
    """The credit for an evaluation that was given up: for what was paid for, and once for each submission, however
    often it is tested again.
    """
    state = fold(story)
    if state is None or not state.paid.payment.is_paid:
        return None
    first = next(recorded.event for recorded in story if isinstance(recorded.event, EvaluationAbandoned))
    if first.evaluation_id != abandoned.evaluation_id:
        return None
    return CreditGranted(
        credit_id=derive_id("credit", abandoned.evaluation_id),
        miner_hotkey=state.paid.miner_hotkey,
        submission_id=abandoned.submission_id,
        evaluation_id=abandoned.evaluation_id,
        detail=abandoned.detail,
    )


def credit(story: list[Recorded], granted: CreditGranted) -> list[CreditGranted]:
    """Record a credit, once."""
    return [] if story else [granted]


def request(story: list[Recorded], *, hparams_sha256: str, runs: int) -> list[EvalRequested]:
    """Ask for the submission's first evaluation; nothing when one was asked for, under whatever hparams."""
    state = fold(story)
    if state is None or state.requested is not None:
        return []
    return [
        EvalRequested(
            submission_id=state.submission_id,
            evaluation_id=derive_id("evaluation", state.submission_id, hparams_sha256, "submitted"),
            code_sha256=state.paid.code_sha256,
            hparams_sha256=hparams_sha256,
            runs=runs,
        )
    ]
