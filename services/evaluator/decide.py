"""What the evaluator does next, from a submission's story alone. Pure: no clock, no randomness, no I/O."""

from services.evaluator.sandbox import Kind
from shared.events import EvalRequested, EvaluationAbandoned, EvaluationStarted, Recorded, RunCompleted
from shared.submission import Submission, fold


def refuses_sandbox(story: list[Recorded], *, sandbox: Kind) -> str | None:
    """Why a submission must not run in this sandbox, or None. Foreign code that was paid for needs Docker."""
    state = fold(story)
    if state is not None and state.paid.payment.is_paid and sandbox != "docker":
        return (
            "a paid submission is only ever run in the docker sandbox; "
            "start an engine, run `just sandbox-image` and restart the evaluator"
        )
    return None


def is_wanted(story: list[Recorded], request: EvalRequested) -> bool:
    """Whether a run is left to do: not all are measured, none has failed, nothing has settled or replaced it."""
    state = fold(story)
    return state is not None and _next_run(state, request) is not None


def start(
    story: list[Recorded], request: EvalRequested, *, evaluator: str, instance: str, sandbox: Kind
) -> list[EvaluationStarted]:
    """Claim the next attempt, which fences off the one before; nothing when no run is left to do."""
    state = fold(story)
    if state is None or _next_run(state, request) is None:
        return []
    return [
        EvaluationStarted(
            submission_id=request.submission_id,
            evaluation_id=request.evaluation_id,
            attempt=state.attempt + 1,
            evaluator=evaluator,
            instance=instance,
            sandbox=sandbox,
        )
    ]


def claimed(story: list[Recorded], request: EvalRequested, *, instance: str) -> int | None:
    """The attempt that this instance holds, or None: the latest is another's, or there is none."""
    attempts = [
        event
        for event in (recorded.event for recorded in story)
        if isinstance(event, EvaluationStarted) and event.evaluation_id == request.evaluation_id
    ]
    return attempts[-1].attempt if attempts and attempts[-1].instance == instance else None


def next_run(story: list[Recorded], request: EvalRequested, *, attempt: int) -> int | None:
    """Index of the run to do now; None when none is left, or when another attempt has taken over."""
    state = fold(story)
    return _next_run(state, request) if state is not None and state.attempt == attempt else None


def is_superseded(story: list[Recorded], request: EvalRequested, *, attempt: int) -> bool:
    """Whether another attempt is at work on what is left."""
    state = fold(story)
    return state is not None and state.attempt != attempt and _next_run(state, request) is not None


def report(story: list[Recorded], request: EvalRequested, completed: RunCompleted) -> list[RunCompleted]:
    """Record a run; nothing when its attempt was fenced off meanwhile or the run is recorded already."""
    return [completed] if next_run(story, request, attempt=completed.attempt) == completed.run_index else []


def abandon(
    story: list[Recorded], request: EvalRequested, *, detail: str, deliveries: int
) -> list[EvaluationAbandoned]:
    """Give up for the validator's own fault; nothing when no run is left to do."""
    if not is_wanted(story, request):
        return []
    return [
        EvaluationAbandoned(
            submission_id=request.submission_id,
            evaluation_id=request.evaluation_id,
            detail=detail,
            deliveries=deliveries,
        )
    ]


def _next_run(state: Submission, request: EvalRequested) -> int | None:
    """Index of the run that whoever holds the latest attempt has to do."""
    if state.requested is None or state.requested.evaluation_id != request.evaluation_id or state.settled:
        return None
    if len(state.runs) >= request.runs or any(run.completed.failure for run in state.runs):
        return None
    return len(state.runs)
