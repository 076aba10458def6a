"""What ingest records about a submission, from its story alone. Pure: no clock, no randomness, no I/O."""

from shared.events import EvalRequested, Payment, Recorded, SubmissionPaid
from shared.ids import derive_id
from shared.submission import fold


def submission(*, miner_hotkey: str, code_sha256: str, code_bytes: int, payment: Payment) -> SubmissionPaid:
    """The submission that a payment buys. Its id is the payment's: what is sent again is the same submission."""
    return SubmissionPaid(
        submission_id=derive_id("submission", payment.reference),
        miner_hotkey=miner_hotkey,
        miner_uid=None,
        code_sha256=code_sha256,
        code_bytes=code_bytes,
        payment=payment,
    )


def accept(story: list[Recorded], paid: SubmissionPaid) -> list[SubmissionPaid]:
    """Record the submission; nothing when its payment has bought one already, this one or another."""
    return [paid] if fold(story) is None else []


def refuses_payment(story: list[Recorded], paid: SubmissionPaid) -> str | None:
    """Why this submission cannot have its payment, or None. A payment buys one file of one miner, once."""
    state = fold(story)
    if state is None:
        return None
    if state.paid.miner_hotkey != paid.miner_hotkey:
        return f"payment {paid.payment.reference} has paid for a submission of another hotkey; pay for this one"
    if state.paid.code_sha256 != paid.code_sha256:
        return (
            f"payment {paid.payment.reference} has paid for other code, submission {paid.submission_id}; "
            "send that same file again, or pay for this one"
        )
    return None


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
