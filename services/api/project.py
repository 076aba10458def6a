"""What a batch of events changes in the read model: (states, batch) -> rows. Pure: no clock, no randomness, no I/O.

The life of a submission is `shared.submission.evolve`, here as everywhere: no status is decided in SQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

from shared import request
from shared.events import (
    BurnSwitched,
    CreditGranted,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    PaymentClaimed,
    PaymentRefused,
    Recorded,
    RunCompleted,
    Standing,
    SubmissionPaid,
    Verified,
    WeightsDecided,
    WeightsSet,
)
from shared.faults import UnknownEvent
from shared.submission import Submission, evolve


class SubmissionRow(NamedTuple):
    """The columns of each row are in the order of its statement's parameters."""

    submission_id: str
    status: str
    final_score: float | None
    created_at: datetime
    updated_at: datetime
    state: str
    submitted_sequence: int
    miner_hotkey: str
    code_sha256: str


class ClaimRow(NamedTuple):
    """What is known of one miner's wish to have one payment for one code: the events as they are, at most one of each.

    What it comes to is not decided here: a payment may be refused, and bought with later.
    """

    claim_id: str
    reference: str
    sequence: int
    created_at: datetime
    updated_at: datetime
    claimed: str | None = None
    refused: str | None = None
    paid: str | None = None


class CreditRow(NamedTuple):
    """A credit, with the submission that it paid for if there is one."""

    credit_id: str
    sequence: int
    created_at: datetime
    miner_hotkey: str
    submission_id: str
    buys: str
    event: str


class RunRow(NamedTuple):
    """A run that counts, with its verdict if that is in the same batch. What was there before is none of it."""

    submission_id: str
    run_id: str
    evaluation_id: str
    sequence: int
    created_at: datetime
    completed: str
    verified_sequence: int | None = None
    verified: str | None = None


class VerdictRow(NamedTuple):
    """The verdict on a run that has its row already."""

    submission_id: str
    run_id: str
    verified_sequence: int
    verified: str


class FinishRow(NamedTuple):
    """An evaluation that was passed, by the verdict that finished it: of how many runs its score is the mean."""

    submission_id: str
    sequence: int
    competition: str
    runs: int


class StandingRow(NamedTuple):
    """The latest entry of a submission in a competition."""

    competition: str
    submission_id: str
    miner_hotkey: str
    miner_uid: int | None
    score: float
    submitted_sequence: int
    cause_sequence: int


class LeftRow(NamedTuple):
    """A submission that is not ranked in a competition any more."""

    competition: str
    submission_id: str


class EventRow(NamedTuple):
    """An event kept as it is."""

    sequence: int
    created_at: datetime
    event: str


@dataclass(frozen=True)
class Rows:
    """What to write, each row under its key, in this order: a verdict needs its run, a standing what it comes from.
    Nothing is among those that are ranked and those that left.
    """

    submissions: dict[str, SubmissionRow] = field(default_factory=dict)
    claims: dict[str, ClaimRow] = field(default_factory=dict)
    credits: dict[str, CreditRow] = field(default_factory=dict)
    runs: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], VerdictRow] = field(default_factory=dict)
    finishes: dict[tuple[str, int], FinishRow] = field(default_factory=dict)
    left: dict[tuple[str, str], LeftRow] = field(default_factory=dict)
    standings: dict[tuple[str, str], StandingRow] = field(default_factory=dict)
    weights: dict[int, EventRow] = field(default_factory=dict)
    dead_letters: dict[int, EventRow] = field(default_factory=dict)


_state = msgspec.json.Decoder(Submission)


def decode_state(stored: str) -> Submission:
    """The state in a row of submissions.

    Raises:
        msgspec.MsgspecError: another release stored it.
    """
    return _state.decode(stored)


def touched(batch: Sequence[Recorded]) -> list[str]:
    """The submissions whose states `project` needs."""
    return sorted({name for category, name in map(_aggregate, batch) if category == "submission"})


def project(states: Mapping[str, Submission], batch: Sequence[Recorded]) -> Rows:
    """Fold a batch into the states before it, by submission id; those that are not there yet are left out.

    Raises:
        UnknownEvent: an event of this release that nobody told how to project.
    """
    rows, known = Rows(), dict(states)
    changed: set[str] = set()
    for recorded in batch:
        category, name = _aggregate(recorded)
        match recorded.event:
            case LeaderboardChanged() as event:
                _rank(rows, event)
            case PaymentClaimed() | PaymentRefused() as event:
                _claim(rows, recorded, event, claim_id=event.claim_id, reference=event.payment_reference)
            case CreditGranted() as event:
                rows.credits.setdefault(event.credit_id, _credit(recorded, event))
            case WeightsSet():
                rows.weights[recorded.sequence] = _event(recorded)
            case WeightsDecided() | BurnSwitched():
                pass  # WeightsSet says what came of either
            case MessageDeadLettered():
                rows.dead_letters[recorded.sequence] = _event(recorded)
            case _ if category == "submission":
                before, after = known.get(name), evolve(known.get(name), _without_log(recorded))
                if after is not None:
                    known[name] = after
                    changed.add(name)
                    _follow_payment(rows, before, after, recorded)
                    _follow_run(rows, before, after, recorded)
            case _:
                raise UnknownEvent(f"{recorded.envelope.type} is not projected yet")
    rows.submissions.update({name: _submission(name, known[name]) for name in sorted(changed)})
    return rows


def _aggregate(recorded: Recorded) -> tuple[str, str]:
    _, category, name, _ = recorded.subject.split(".", 3)
    return category, name


def _rank(rows: Rows, event: LeaderboardChanged) -> None:
    """Keep the latest of what a submission's place in a competition became."""
    if event.entry is not None:
        key = (event.competition, event.entry.submission_id)
        rows.left.pop(key, None)
        rows.standings[key] = _standing(event, event.entry)
    elif event.removed_submission_id is not None:
        key = (event.competition, event.removed_submission_id)
        rows.standings.pop(key, None)
        rows.left[key] = LeftRow(*key)


def _follow_payment(rows: Rows, before: Submission | None, after: Submission, recorded: Recorded) -> None:
    """Keep what a payment bought, which its claim, if there was one, was for."""
    payment, event = after.paid.payment, recorded.event
    if before is None and payment.is_paid and isinstance(event, SubmissionPaid):
        claim_id = request.claim_id(payment.reference, miner_hotkey=event.miner_hotkey, code_sha256=event.code_sha256)
        _claim(rows, recorded, event, claim_id=claim_id, reference=payment.reference)


def _claim(
    rows: Rows,
    recorded: Recorded,
    event: PaymentClaimed | PaymentRefused | SubmissionPaid,
    *,
    claim_id: str,
    reference: str,
) -> None:
    at, said = recorded.envelope.time, _json(event)
    row = rows.claims.get(claim_id) or ClaimRow(
        claim_id=claim_id, reference=reference, sequence=recorded.sequence, created_at=at, updated_at=at
    )
    match event:
        case PaymentClaimed():
            row = row._replace(claimed=said)
        case PaymentRefused():
            row = row._replace(refused=said)
        case SubmissionPaid():
            row = row._replace(paid=said)
    rows.claims[claim_id] = row._replace(updated_at=at)


def _credit(recorded: Recorded, event: CreditGranted) -> CreditRow:
    return CreditRow(
        credit_id=event.credit_id,
        sequence=recorded.sequence,
        created_at=recorded.envelope.time,
        miner_hotkey=_storable(event.miner_hotkey),
        submission_id=event.submission_id,
        buys=request.submission_id(request.credit_reference(event.credit_id)),
        event=_json(event),
    )


def _follow_run(rows: Rows, before: Submission | None, after: Submission, recorded: Recorded) -> None:
    """Keep a run or a verdict that the fold took; it ignores those of older evaluations and fenced-off attempts."""
    if before is None:
        return
    event, submission_id = recorded.event, after.submission_id
    if isinstance(event, RunCompleted) and len(after.runs) > len(before.runs):
        key = (submission_id, event.run_id)
        rows.verdicts.pop(key, None)  # on the same run of an evaluation that was taken up again
        rows.runs[key] = RunRow(
            submission_id=submission_id,
            run_id=event.run_id,
            evaluation_id=event.evaluation_id,
            sequence=recorded.sequence,
            created_at=recorded.envelope.time,
            completed=_json(after.runs[-1].completed),
        )
    elif isinstance(event, Verified) and _judged(after) > _judged(before):
        key = (submission_id, event.run_id)
        sequence, verified = recorded.sequence, _json(event)
        if key in rows.runs:
            rows.runs[key] = rows.runs[key]._replace(verified_sequence=sequence, verified=verified)
        else:
            rows.verdicts[key] = VerdictRow(*key, verified_sequence=sequence, verified=verified)
        if after.passed:
            assert after.requested is not None
            rows.finishes[submission_id, sequence] = FinishRow(
                submission_id=submission_id,
                sequence=sequence,
                competition=after.requested.hparams_sha256,
                runs=len(after.runs),
            )


def _judged(state: Submission) -> int:
    return sum(run.verified is not None for run in state.runs)


def _without_log(recorded: Recorded) -> Recorded:
    """Logs are most of a run's size and are never answered with."""
    if not isinstance(recorded.event, RunCompleted):
        return recorded
    completed = msgspec.structs.replace(recorded.event, log_tail="")
    return msgspec.structs.replace(recorded, envelope=msgspec.structs.replace(recorded.envelope, data=completed))


def _submission(name: str, state: Submission) -> SubmissionRow:
    return SubmissionRow(
        submission_id=name,
        status=state.status,
        final_score=state.final_score,
        created_at=state.created_at,
        updated_at=state.updated_at,
        state=_json(state),
        submitted_sequence=state.paid_sequence,
        miner_hotkey=_storable(state.paid.miner_hotkey),
        code_sha256=state.paid.code_sha256,
    )


def _standing(event: LeaderboardChanged, entry: Standing) -> StandingRow:
    return StandingRow(
        competition=event.competition,
        submission_id=entry.submission_id,
        miner_hotkey=_storable(entry.miner_hotkey),
        miner_uid=entry.miner_uid,
        score=entry.score,
        submitted_sequence=entry.submitted_sequence,
        cause_sequence=event.cause_sequence,
    )


def _storable(miner_hotkey: str) -> str:
    """A miner chose it, and PostgreSQL stores no NUL."""
    return miner_hotkey.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _event(recorded: Recorded) -> EventRow:
    return EventRow(sequence=recorded.sequence, created_at=recorded.envelope.time, event=_json(recorded.event))


def _json(value: Submission | Event) -> str:
    return msgspec.json.encode(value).decode()
