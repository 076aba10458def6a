"""What the verifier records about one run, from its submission's story alone. Pure: no clock, no randomness, no I/O."""

from services.verifier.judge import Judgement
from shared.events import EvaluationAbandoned, Recorded, RunCompleted, Verified
from shared.submission import fold


def awaits_verdict(story: list[Recorded], completed: RunCompleted) -> bool:
    """Whether this run counts and has no verdict yet. Fenced-off attempts and older evaluations do not count."""
    state = fold(story)
    return state is not None and any(run.completed == completed and run.verified is None for run in state.runs)


def verdict(completed: RunCompleted, judgement: Judgement | None) -> Verified:
    """The verdict event. A run that failed before it could be judged (no judgement) keeps its own failure."""
    return Verified(
        submission_id=completed.submission_id,
        evaluation_id=completed.evaluation_id,
        run_id=completed.run_id,
        run_index=completed.run_index,
        failure=completed.failure if judgement is None else judgement.failure,
        detail=completed.detail if judgement is None else judgement.detail,
        checks=() if judgement is None else judgement.checks,
        tokens_per_second=completed.tokens_per_second,
    )


def record(story: list[Recorded], completed: RunCompleted, verified: Verified) -> list[Verified]:
    """Record the verdict; nothing when another replica has, or the run does not count any more."""
    return [verified] if awaits_verdict(story, completed) else []


def abandon(
    story: list[Recorded], completed: RunCompleted, *, detail: str, deliveries: int
) -> list[EvaluationAbandoned]:
    """Give up an evaluation that this validator cannot judge; nothing when it is settled without that verdict."""
    state = fold(story)
    if state is None or state.settled or not awaits_verdict(story, completed):
        return []
    return [
        EvaluationAbandoned(
            submission_id=completed.submission_id,
            evaluation_id=completed.evaluation_id,
            detail=detail,
            deliveries=deliveries,
        )
    ]
