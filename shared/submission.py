"""The life of one submission as a pure fold, `evolve(state, recorded) -> state`: read so by every service."""

from datetime import datetime
from typing import Literal

import msgspec

from shared.events import (
    Disqualified,
    EvalRequested,
    EvaluationAbandoned,
    EvaluationStarted,
    Recorded,
    Reinstated,
    RunCompleted,
    SubmissionPaid,
    Verified,
)

Status = Literal["pending", "evaluating", "validating", "finished", "failed_validation", "error"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the current evaluation. `judged` is set when its verdict is in."""

    completed: RunCompleted
    verified: Verified | None = None


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """State of one submission after its events so far, in stream order.

    `requested`, `attempt` and `runs` are those of the latest evaluation: a re-test starts afresh. A disqualification
    stops no evaluation and outlives each: taken back, it leaves everything as if it had never been.
    """

    paid: SubmissionPaid
    paid_sequence: int
    created_at: datetime
    updated_at: datetime
    last_sequence: int
    requested: EvalRequested | None = None
    attempt: int = 0
    runs: tuple[Run, ...] = ()
    abandoned: EvaluationAbandoned | None = None
    disqualified: Disqualified | None = None
    """The disqualification that is in force."""

    @property
    def submission_id(self) -> str:
        return self.paid.submission_id

    @property
    def failed(self) -> Verified | None:
        """The first verdict that was not a pass."""
        return next((run.verified for run in self.runs if run.verified and run.verified.failure), None)

    @property
    def passed(self) -> bool:
        """All runs of the evaluation passed."""
        if self.requested is None or len(self.runs) < self.requested.runs:
            return False
        return all(run.verified is not None and run.verified.failure is None for run in self.runs)

    @property
    def finished(self) -> bool:
        """It passed, and counts."""
        return self.passed and self.disqualified is None

    @property
    def score(self) -> float | None:
        """Mean tokens per second of the passed runs; None unless all runs passed."""
        if not self.passed:
            return None
        return sum(run.completed.tokens_per_second for run in self.runs) / len(self.runs)

    @property
    def final_score(self) -> float | None:
        """The score, if it counts."""
        return self.score if self.finished else None

    @property
    def outcome(self) -> Status:
        """The status of the evaluation alone, whatever an operator has decided."""
        if self.abandoned is not None:
            return "error"
        if self.failed is not None:
            return "failed_validation"
        if self.passed:
            return "finished"
        if self.requested is None or self.attempt == 0:
            return "pending"
        measured = len(self.runs) >= self.requested.runs or any(run.completed.failure for run in self.runs)
        return "validating" if measured else "evaluating"

    @property
    def status(self) -> Status:
        """`pending`: waits for an evaluator. `evaluating`: a sandbox has it. `validating`: measured, verdicts are
        awaited. `finished`: ranked. `failed_validation`: a run failed, or an operator disqualified it. `error`: given
        up, the validator's fault.
        """
        return self.outcome if self.disqualified is None else "failed_validation"

    @property
    def settled(self) -> bool:
        """No further event is needed for this evaluation."""
        return self.outcome in ("finished", "failed_validation", "error")

    @property
    def error_message(self) -> str | None:
        """What to tell the miner, or None while nothing went wrong."""
        if self.disqualified is not None:
            return f"disqualified: {self.disqualified.reason}"
        if self.abandoned is not None:
            return f"given up for the validator's own fault: {self.abandoned.detail}"
        failed = self.failed
        return None if failed is None else f"{failed.failure}: {failed.detail}"


def evolve(state: Submission | None, recorded: Recorded) -> Submission | None:
    """Fold one event. What came before, or belongs to an older evaluation or a fenced-off attempt, changes nothing but
    the time.
    """
    event = recorded.event
    at = recorded.envelope.time
    if state is None:
        if not isinstance(event, SubmissionPaid):
            return None
        return Submission(
            paid=event,
            paid_sequence=recorded.sequence,
            created_at=at,
            updated_at=at,
            last_sequence=recorded.sequence,
        )
    state = msgspec.structs.replace(state, updated_at=at, last_sequence=recorded.sequence)
    match event:
        case EvalRequested() if not _current(state, event.evaluation_id):
            return msgspec.structs.replace(state, requested=event, attempt=0, runs=(), abandoned=None)
        case EvaluationStarted() if _current(state, event.evaluation_id) and event.attempt > state.attempt:
            return msgspec.structs.replace(state, attempt=event.attempt, abandoned=None)
        case RunCompleted() if _current(state, event.evaluation_id) and _accepts(state, event):
            return msgspec.structs.replace(state, runs=(*state.runs, Run(completed=event)))
        case Verified() if _current(state, event.evaluation_id):
            runs = tuple(
                msgspec.structs.replace(run, verified=event)
                if run.completed.run_id == event.run_id and run.verified is None
                else run
                for run in state.runs
            )
            return msgspec.structs.replace(state, runs=runs)
        case EvaluationAbandoned() if _current(state, event.evaluation_id):
            return msgspec.structs.replace(state, abandoned=event)
        case Disqualified():
            return msgspec.structs.replace(state, disqualified=event)
        case Reinstated():
            return msgspec.structs.replace(state, disqualified=None)
        case _:
            return state


def fold(story: list[Recorded]) -> Submission | None:
    """The state after a whole story; None when it has no SubmissionPaid."""
    state: Submission | None = None
    for recorded in story:
        state = evolve(state, recorded)
    return state


def _current(state: Submission, evaluation_id: str) -> bool:
    return state.requested is not None and state.requested.evaluation_id == evaluation_id


def _accepts(state: Submission, event: RunCompleted) -> bool:
    return event.attempt == state.attempt and event.run_index == len(state.runs)
