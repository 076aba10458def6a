"""Where every event is published: `tournament.<aggregate>.<id>.<event>`, and the filters over those."""

from shared.events import (
    BurnSwitched,
    CreditGranted,
    Disqualified,
    EvalRequested,
    EvaluationAbandoned,
    EvaluationStarted,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    PaymentClaimed,
    PaymentRefused,
    Reinstated,
    RunCompleted,
    SubmissionPaid,
    Verified,
    WeightsDecided,
    WeightsSet,
)

ALL = "tournament.>"
ALL_WEIGHTS = "tournament.weights.>"


_SUBJECTS: dict[type[Event], str] = {
    PaymentClaimed: "tournament.claim.{0.claim_id}.claimed",
    PaymentRefused: "tournament.claim.{0.claim_id}.refused",
    CreditGranted: "tournament.credit.{0.credit_id}.granted",
    SubmissionPaid: "tournament.submission.{0.submission_id}.paid",
    EvalRequested: "tournament.submission.{0.submission_id}.eval_requested",
    EvaluationStarted: "tournament.submission.{0.submission_id}.evaluation_started",
    RunCompleted: "tournament.submission.{0.submission_id}.run_completed",
    Verified: "tournament.submission.{0.submission_id}.verified",
    EvaluationAbandoned: "tournament.submission.{0.submission_id}.evaluation_abandoned",
    Disqualified: "tournament.submission.{0.submission_id}.disqualified",
    Reinstated: "tournament.submission.{0.submission_id}.reinstated",
    LeaderboardChanged: "tournament.leaderboard.{0.competition}.changed",
    BurnSwitched: "tournament.economy.{0.netuid}.burn_switched",
    WeightsDecided: "tournament.weights.{0.netuid}.decided",
    WeightsSet: "tournament.weights.{0.netuid}.set",
    MessageDeadLettered: "tournament.consumer.{0.consumer}.dead_lettered",
}


def subject_of(event: Event) -> str:
    """The one subject of an event.

    Raises:
        TypeError: the event has no place in the stream yet (add it here).
    """
    subject = _SUBJECTS.get(type(event))
    if subject is None:
        raise TypeError(f"{type(event).__name__} has no subject")
    return subject.format(event)


def claim(claim_id: str) -> str:
    """Filter: one claim of a payment."""
    return f"tournament.claim.{claim_id}.>"


def credit(credit_id: str) -> str:
    """Filter: one credit."""
    return f"tournament.credit.{credit_id}.>"


def submission(submission_id: str) -> str:
    """Filter: the whole story of one submission."""
    return f"tournament.submission.{submission_id}.>"


def leaderboard(competition: str) -> str:
    """Filter: the leaderboard of one competition (an hparams sha256)."""
    return f"tournament.leaderboard.{competition}.>"


def economy(netuid: int) -> str:
    """Filter: what operators decided about the emission of one subnet."""
    return f"tournament.economy.{netuid}.>"


def weights(netuid: int) -> str:
    """Filter: the weights of one subnet."""
    return f"tournament.weights.{netuid}.>"


def dead_letters(consumer: str) -> str:
    """Filter: what one consumer gave up on."""
    return f"tournament.consumer.{consumer}.>"
