"""What a batch of events changes in the read model: (states, batch) -> rows. Pure: no clock, no randomness, no I/O.

The life of a submission is `shared.submission.evolve`, here as everywhere: no status is decided in SQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

from shared.events import (
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    Recorded,
    RunCompleted,
    Verified,
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


class StandingRow(NamedTuple):
    """The latest entry of a submission in a competition."""

    competition: str
    submission_id: str
    miner_hotkey: str
    miner_uid: int | None
    score: float
    submitted_sequence: int
    cause_sequence: int


class EventRow(NamedTuple):
    """An event kept as it is."""

    sequence: int
    created_at: datetime
    event: str


@dataclass(frozen=True)
class Rows:
    """What to write, each row under its key, in this order: a verdict needs its run, a standing all of its runs."""

    submissions: dict[str, SubmissionRow] = field(default_factory=dict)
    runs: dict[tuple[str, str], RunRow] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], VerdictRow] = field(default_factory=dict)
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
                row = _standing(event)
                rows.standings[row.competition, row.submission_id] = row
            case WeightsSet():
                rows.weights[recorded.sequence] = _event(recorded)
            case MessageDeadLettered():
                rows.dead_letters[recorded.sequence] = _event(recorded)
            case _ if category == "submission":
                before, after = known.get(name), evolve(known.get(name), _without_log(recorded))
                if after is not None:
                    known[name] = after
                    changed.add(name)
                    _follow_run(rows, before, after, recorded)
            case _:
                raise UnknownEvent(f"{recorded.envelope.type} is not projected yet")
    rows.submissions.update({name: _submission(name, known[name]) for name in sorted(changed)})
    return rows


def _aggregate(recorded: Recorded) -> tuple[str, str]:
    _, category, name, _ = recorded.subject.split(".", 3)
    return category, name


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
    )


def _standing(event: LeaderboardChanged) -> StandingRow:
    return StandingRow(
        competition=event.competition,
        submission_id=event.entry.submission_id,
        # A miner chose it, and PostgreSQL stores no NUL.
        miner_hotkey=event.entry.miner_hotkey.replace("\0", "\N{REPLACEMENT CHARACTER}"),
        miner_uid=event.entry.miner_uid,
        score=event.entry.score,
        submitted_sequence=event.entry.submitted_sequence,
        cause_sequence=event.cause_sequence,
    )


def _event(recorded: Recorded) -> EventRow:
    return EventRow(sequence=recorded.sequence, created_at=recorded.envelope.time, event=_json(recorded.event))


def _json(value: Submission | Event) -> str:
    return msgspec.json.encode(value).decode()
