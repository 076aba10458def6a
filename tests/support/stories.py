"""Example events, and stories made of them: what a test does not care about has a sensible value."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shared import subjects
from shared.events import (
    CreditGranted,
    Disqualified,
    Envelope,
    EvalRequested,
    EvaluationAbandoned,
    EvaluationStarted,
    Event,
    Gpu,
    Machine,
    Payment,
    PaymentClaimed,
    PaymentRefused,
    Phases,
    Recorded,
    Reinstated,
    RunCompleted,
    SignedRequest,
    SubmissionPaid,
    Verified,
)

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
COMPETITION = "c" * 64
CODE = "d" * 64
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
TRANSFER = f"0x{'a' * 64}-2"
"""A payment reference."""


def record(sequence: int, event: Event) -> Recorded:
    """The event at its place in the stream, one second after the one before."""
    subject = subjects.subject_of(event)
    envelope = Envelope(
        id=event.id,
        type=type(event).__name__,
        version=event.version,
        time=BEGIN + timedelta(seconds=sequence),
        producer="test",
        causation_id=None,
        correlation_id=subject.split(".")[2],
        data=event,
    )
    return Recorded(sequence=sequence, subject=subject, envelope=envelope)


def story(*events: Event) -> list[Recorded]:
    """The events in this order, from sequence 1."""
    return [record(sequence, event) for sequence, event in enumerate(events, start=1)]


def signed(*, recipient: str = BOB, at_seconds: int = 1_767_323_045) -> SignedRequest:
    """Not really signed: for what does not check it."""
    return SignedRequest(netuid=3, recipient=recipient, signed_at_seconds=at_seconds, signature=f"0x{'0' * 128}")


def claimed(claim: str = "k1", *, submission: str = "s1", hotkey: str = ALICE) -> PaymentClaimed:
    return PaymentClaimed(
        claim_id=claim,
        submission_id=submission,
        miner_hotkey=hotkey,
        code_sha256=CODE,
        code_bytes=1234,
        payment_reference=TRANSFER,
        request=signed(),
        detail="the block is not final yet",
    )


def refused(claim: str = "k1", *, submission: str = "s1", hotkey: str = ALICE) -> PaymentRefused:
    return PaymentRefused(
        claim_id=claim,
        submission_id=submission,
        miner_hotkey=hotkey,
        code_sha256=CODE,
        payment_reference=TRANSFER,
        refusal="payment_too_small",
        detail="it moved 0.05 TAO, a submission costs 0.1",
        payer=BOB,
        amount_rao=50_000_000,
    )


def credited(credit: str = "c1", *, submission: str = "s1", hotkey: str = ALICE) -> CreditGranted:
    return CreditGranted(
        credit_id=credit,
        miner_hotkey=hotkey,
        submission_id=submission,
        evaluation_id="e1",
        detail="the engine is away",
    )


def disqualified(submission: str = "s1", *, after_sequence: int = 5) -> Disqualified:
    return Disqualified(
        submission_id=submission, after_sequence=after_sequence, reason="it reads the clock", operator="root@host"
    )


def reinstated(submission: str = "s1", *, after_sequence: int = 6) -> Reinstated:
    return Reinstated(
        submission_id=submission, after_sequence=after_sequence, reason="it does not", operator="root@host"
    )


def paid(submission: str = "s1", *, hotkey: str = ALICE, uid: int | None = None) -> SubmissionPaid:
    return SubmissionPaid(
        submission_id=submission,
        miner_hotkey=hotkey,
        miner_uid=uid,
        code_sha256=CODE,
        code_bytes=1234,
        payment=Payment(reference=f"unpaid:{submission}", amount_rao=0),
    )


def requested(
    submission: str = "s1", evaluation: str = "e1", *, runs: int = 3, competition: str = COMPETITION
) -> EvalRequested:
    return EvalRequested(
        submission_id=submission,
        evaluation_id=evaluation,
        code_sha256=CODE,
        hparams_sha256=competition,
        runs=runs,
    )


def started(submission: str = "s1", evaluation: str = "e1", *, attempt: int = 1) -> EvaluationStarted:
    return EvaluationStarted(
        submission_id=submission,
        evaluation_id=evaluation,
        attempt=attempt,
        evaluator="local",
        instance=f"host-{attempt}",
        sandbox="process",
    )


GPU = Gpu(
    uuid="GPU-7c1f3a52-9d5e-4c1b-8f0e-2b6a1d4e9c33",
    driver="580.82.07",
    samples=12,
    sm_clock_mhz_min=1965,
    sm_clock_mhz_max=1980,
    memory_clock_mhz_min=2619,
    temperature_celsius_max=61,
    power_watts_max=684.5,
    memory_used_bytes_max=9_126_805_504,
    limits=("sw_power_cap",),
    slowdowns=(),
)
MACHINE = Machine(
    hostname="host", accelerator="NVIDIA H100", cpus=(1,), sandbox="docker", image="sha256:1", runtime="runc", gpu=GPU
)


def completed(
    index: int = 0,
    *,
    submission: str = "s1",
    evaluation: str = "e1",
    attempt: int = 1,
    failure: str | None = None,
    tps: float = 100.0,
    **changes: Any,
) -> RunCompleted:
    fields: dict[str, Any] = {
        "submission_id": submission,
        "evaluation_id": evaluation,
        "run_id": f"{evaluation}-{index}",
        "run_index": index,
        "attempt": attempt,
        "hparams_sha256": COMPETITION,
        "failure": failure,
        "detail": "" if failure is None else "it broke",
        "evaluator": "local",
        "tokens": 10_240,
        "elapsed_ns": 2_000_000_000,
        "tokens_per_second": 0.0 if failure else tps,
        "phases": Phases(start_ns=1, prepare_ns=2, train_ns=3, evidence_ns=4),
        "seed": 7,
        "nonce": "00" * 32,
        "evidence_sha256": None if failure else "e" * 64,
        "reference_sha256": None if failure else "f" * 64,
        "log_tail": "hello\n",
        "machine": MACHINE,
    }
    return RunCompleted(**fields | changes)


def verified(
    index: int = 0,
    *,
    submission: str = "s1",
    evaluation: str = "e1",
    failure: str | None = None,
    tps: float = 100.0,
) -> Verified:
    return Verified(
        submission_id=submission,
        evaluation_id=evaluation,
        run_id=f"{evaluation}-{index}",
        run_index=index,
        failure=failure,
        detail="every check passed" if failure is None else "it broke",
        checks=(),
        tokens_per_second=tps,
    )


def abandoned(submission: str = "s1", evaluation: str = "e1") -> EvaluationAbandoned:
    return EvaluationAbandoned(
        submission_id=submission, evaluation_id=evaluation, detail="the engine is away", deliveries=5
    )


def finished(
    submission: str, scores: tuple[float, ...], *, evaluation: str = "", competition: str = COMPETITION
) -> list[Event]:
    """Everything after SubmissionPaid of an evaluation whose runs all pass with these tokens per second."""
    evaluation = evaluation or f"evaluation-{submission}"
    events: list[Event] = [
        requested(submission, evaluation, runs=len(scores), competition=competition),
        started(submission, evaluation),
    ]
    for index, tps in enumerate(scores):
        events.append(completed(index, submission=submission, evaluation=evaluation, tps=tps))
        events.append(verified(index, submission=submission, evaluation=evaluation, tps=tps))
    return events
