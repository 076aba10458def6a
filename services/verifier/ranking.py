"""The standings of every competition as a fold over the stream. Pure: the same events always give the same changes.

A submission holds at most one place in a competition, by its latest finished evaluation there. The highest mean of
tokens per second leads; on a tie, whoever was submitted first. Whoever is disqualified leaves the ranking of every
competition, and returns to it when reinstated.
"""

import bisect
from dataclasses import dataclass, field

import msgspec

from shared.events import TOP_ROWS, LeaderboardChanged, Recorded, RunCompleted, Standing, Verified
from shared.submission import Submission, evolve


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Sorts by its first two fields: the best place is the least."""

    negated_score: float
    submitted_sequence: int
    submission_id: str = field(compare=False)
    miner_hotkey: str = field(compare=False)
    miner_uid: int | None = field(compare=False)


@dataclass(frozen=True)
class Ranking:
    """The fold's accumulator: folded into in place, because a copy for each event would make replay quadratic."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    """By competition (hparams sha256), best first."""
    held: dict[str, dict[str, Place]] = field(default_factory=dict)
    """By submission and competition. Those that are disqualified hold theirs too, to return to it."""


def apply(ranking: Ranking, recorded: Recorded) -> list[LeaderboardChanged]:
    """Fold one event, in stream order. Returns the changes that it causes: none, or one of each competition."""
    category, submission_id = recorded.subject.split(".")[1:3]
    if category != "submission":
        return []
    before = ranking.submissions.get(submission_id)
    after = evolve(before, _without_log(recorded))
    if after is None:
        return []
    ranking.submissions[submission_id] = after
    held = ranking.held.setdefault(submission_id, {})
    was_ranked, is_ranked = before is None or before.disqualified is None, after.disqualified is None
    if was_ranked and not is_ranked:
        return [_leave(ranking, competition, held[competition], recorded.sequence) for competition in held]
    if is_ranked and not was_ranked:
        return [_enter(ranking, competition, held[competition], recorded.sequence) for competition in held]
    already = before is not None and before.outcome == "finished"
    if not isinstance(recorded.event, Verified) or already or after.outcome != "finished":
        return []
    assert after.requested is not None
    competition = after.requested.hparams_sha256
    earlier, held[competition] = held.get(competition), _place(after)
    if not is_ranked:
        return []
    if earlier is not None:
        _remove(ranking.places[competition], earlier)
    return [_enter(ranking, competition, held[competition], recorded.sequence)]


def _without_log(recorded: Recorded) -> Recorded:
    """Logs are most of a run's size and no part of its rank: whoever keeps every submission leaves them out."""
    if not isinstance(recorded.event, RunCompleted):
        return recorded
    completed = msgspec.structs.replace(recorded.event, log_tail="")
    return msgspec.structs.replace(recorded, envelope=msgspec.structs.replace(recorded.envelope, data=completed))


def _place(passed: Submission) -> Place:
    assert passed.score is not None
    return Place(
        negated_score=-passed.score,
        submitted_sequence=passed.paid_sequence,
        submission_id=passed.submission_id,
        miner_hotkey=passed.paid.miner_hotkey,
        miner_uid=passed.paid.miner_uid,
    )


def _enter(ranking: Ranking, competition: str, entry: Place, cause_sequence: int) -> LeaderboardChanged:
    places = ranking.places.setdefault(competition, [])
    index = bisect.bisect(places, entry)
    places.insert(index, entry)
    return LeaderboardChanged(
        competition=competition,
        cause_sequence=cause_sequence,
        entry=_standing(entry, rank=index + 1),
        ranked=len(places),
        top=_top(places),
    )


def _leave(ranking: Ranking, competition: str, entry: Place, cause_sequence: int) -> LeaderboardChanged:
    places = ranking.places[competition]
    _remove(places, entry)
    return LeaderboardChanged(
        competition=competition,
        cause_sequence=cause_sequence,
        entry=None,
        ranked=len(places),
        top=_top(places),
        removed_submission_id=entry.submission_id,
    )


def _remove(places: list[Place], entry: Place) -> None:
    del places[bisect.bisect_left(places, entry)]


def _top(places: list[Place]) -> tuple[Standing, ...]:
    return tuple(_standing(place, rank=rank) for rank, place in enumerate(places[:TOP_ROWS], start=1))


def _standing(place: Place, *, rank: int) -> Standing:
    return Standing(
        rank=rank,
        submission_id=place.submission_id,
        miner_hotkey=place.miner_hotkey,
        miner_uid=place.miner_uid,
        score=-place.negated_score,
        submitted_sequence=place.submitted_sequence,
    )
