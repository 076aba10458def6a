"""Where every event is published: `tournament.<aggregate>.<id>.<event>`, and the filters over those."""

from shared.events import (
    EvalRequested,
    EvaluationAbandoned,
    EvaluationStarted,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    RunCompleted,
    SubmissionPaid,
    Verified,
    WeightsSet,
)

ALL = "tournament.>"


def subject_of(event: Event) -> str:
    """The one subject of an event.

    Raises:
        TypeError: the event has no place in the stream yet (add it here).
    """
    match event:
        case SubmissionPaid():
            return f"tournament.submission.{event.submission_id}.paid"
        case EvalRequested():
            return f"tournament.submission.{event.submission_id}.eval_requested"
        case EvaluationStarted():
            return f"tournament.submission.{event.submission_id}.evaluation_started"
        case RunCompleted():
            return f"tournament.submission.{event.submission_id}.run_completed"
        case Verified():
            return f"tournament.submission.{event.submission_id}.verified"
        case EvaluationAbandoned():
            return f"tournament.submission.{event.submission_id}.evaluation_abandoned"
        case LeaderboardChanged():
            return f"tournament.leaderboard.{event.competition}.changed"
        case WeightsSet():
            return f"tournament.weights.{event.netuid}.set"
        case MessageDeadLettered():
            return f"tournament.consumer.{event.consumer}.dead_lettered"
        case _:
            raise TypeError(f"{type(event).__name__} has no subject")


def submission(submission_id: str) -> str:
    """Filter: the whole story of one submission."""
    return f"tournament.submission.{submission_id}.>"


def leaderboard(competition: str) -> str:
    """Filter: the leaderboard of one competition (an hparams sha256)."""
    return f"tournament.leaderboard.{competition}.>"


def weights(netuid: int) -> str:
    """Filter: the weights of one subnet."""
    return f"tournament.weights.{netuid}.>"


def dead_letters(consumer: str) -> str:
    """Filter: what one consumer gave up on."""
    return f"tournament.consumer.{consumer}.>"
