"""What the evaluator does next, from a submission's story alone. Pure: no clock, no randomness, no I/O."""

from shared.events import EvalRequested, EvaluationAbandoned, EvaluationStarted, Recorded, RunCompleted
from shared.submission import Submission, fold


def start(
    story: list[Recorded], request: EvalRequested, *, evaluator: str, instance: str, sandbox: str
) -> list[EvaluationStarted]:
    """Claim the next attempt; nothing when no run is left to do or another evaluation has replaced this one."""
    state = fold(story)
    if state is None or next_run(story, request, attempt=state.attempt) is None:
        return []
    return [
        EvaluationStarted(
            submission_id=request.submission_id,
            evaluation_id=request.evaluation_id,
            attempt=state.attempt + 1,
            evaluator=evaluator,
            instance=instance,
            sandbox="docker" if sandbox == "docker" else "process",
        )
    ]


def claimed(story: list[Recorded], request: EvalRequested, *, instance: str) -> int | None:
    """The attempt that this instance holds, or None: another has claimed a later one, or none is wanted."""
    state = fold(story)
    if state is None or not _wanted(state, request):
        return None
    mine = [
        event.attempt
        for event in (recorded.event for recorded in story)
        if isinstance(event, EvaluationStarted)
        and event.evaluation_id == request.evaluation_id
        and event.instance == instance
    ]
    return state.attempt if mine and mine[-1] == state.attempt else None


def next_run(story: list[Recorded], request: EvalRequested, *, attempt: int) -> int | None:
    """Index of the run to do now; None when all are measured, one has failed, or another attempt has taken over."""
    state = fold(story)
    if state is None or not _wanted(state, request) or state.attempt != attempt:
        return None
    if len(state.runs) >= request.runs or any(run.completed.failure for run in state.runs):
        return None
    return len(state.runs)


def report(story: list[Recorded], completed: RunCompleted) -> list[RunCompleted]:
    """Record a run; nothing when its attempt was fenced off meanwhile or the run is recorded already."""
    state = fold(story)
    if state is None or state.requested is None or state.requested.evaluation_id != completed.evaluation_id:
        return []
    if state.attempt != completed.attempt or len(state.runs) != completed.run_index or state.settled:
        return []
    return [completed]


def abandon(
    story: list[Recorded], request: EvalRequested, *, detail: str, deliveries: int
) -> list[EvaluationAbandoned]:
    """Give up for the validator's own fault; nothing when no run is left to do."""
    state = fold(story)
    if state is None or next_run(story, request, attempt=state.attempt) is None:
        return []
    return [
        EvaluationAbandoned(
            submission_id=request.submission_id,
            evaluation_id=request.evaluation_id,
            detail=detail,
            deliveries=deliveries,
        )
    ]


def earlier_run(story: list[Recorded]) -> RunCompleted | None:
    """The latest run of this evaluation that has evidence: a new attempt goes on with its seed, nonce and reference."""
    state = fold(story)
    if state is None:
        return None
    return next((run.completed for run in reversed(state.runs) if run.completed.reference_sha256), None)


def refuses_sandbox(story: list[Recorded], *, sandbox: str) -> str | None:
    """Why a submission must not run in this sandbox, or None. Foreign code that was paid for needs Docker."""
    state = fold(story)
    if state is not None and state.paid.payment.amount_rao > 0 and sandbox != "docker":
        return "a paid submission is only ever run in the docker sandbox; start an engine and run `just sandbox-image`"
    return None


def _wanted(state: Submission, request: EvalRequested) -> bool:
    current = state.requested is not None and state.requested.evaluation_id == request.evaluation_id
    return current and not state.settled
